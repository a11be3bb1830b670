"""The HTTP clients of one gateway: for what the operator named, for what others name, and for issuers."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable, Collection

import httpx2

from agentgw.app import convert
from agentgw.app.guarded_http import REFUSED, GuardedTransport, Resolve, cookieless, resolve_host
from agentgw.config.model import Config
from agentgw.errors import ConfigError
from agentgw.identity.oidc import IssuerUnusable
from agentgw.upstream.web import origin_of


class HttpClients:
    """`plain` asks what the operator named, `guarded` what others name; `of` does both for one issuer.

    `config` gives what is in use now, as reloads swap it; `resolve` gives the addresses of what is guarded.
    None of them follows a redirect, heeds a proxy of the environment, or keeps a cookie.
    Raises ConfigError as `authorities` does.
    """

    def __init__(self, config: Callable[[], Config], resolve: Resolve = resolve_host) -> None:
        trust = authorities()
        self._open = httpx2.AsyncHTTPTransport(verify=trust, trust_env=False)
        self._guard = GuardedTransport(
            lambda: convert.outbound_networks(config()), lambda: config().dev, resolve, trust
        )
        self.plain = cookieless(self._open)
        self.guarded = cookieless(self._guard)

    def of(self, *urls: str | None) -> httpx2.AsyncClient:
        """For a server that the operator named by `urls`: these origins are asked as they are, whatever
        else its metadata names under the guard. It need not be closed. Raises IssuerUnusable, when asked,
        for a host that the guard refuses."""
        origins = {origin_of(url) for url in urls if url is not None}
        return cookieless(_ByOrigin(origins, self._open, self._guard))

    async def aclose(self) -> None:
        """Close every connection."""
        await asyncio.gather(self.plain.aclose(), self.guarded.aclose())


class _ByOrigin(httpx2.AsyncBaseTransport):
    """Both transports stay their owner's."""

    def __init__(
        self,
        origins: Collection[str],
        plain: httpx2.AsyncBaseTransport,
        guarded: httpx2.AsyncBaseTransport,
    ) -> None:
        self._origins = origins
        self._plain = plain
        self._guarded = guarded

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if origin_of(str(request.url)) in self._origins:
            return await self._plain.handle_async_request(request)
        try:
            return await self._guarded.handle_async_request(request)
        except (httpx2.ConnectError, httpx2.UnsupportedProtocol) as error:
            if not (said := str(error)).startswith(REFUSED):
                raise
            raise IssuerUnusable(
                f"it names another host, which is not asked: {said.removeprefix(REFUSED)} "
                "(outbound.private_networks lists those that may be)"
            ) from None


def authorities() -> ssl.SSLContext:
    """Whose certificates we take from servers: the system's authorities, or those of SSL_CERT_FILE or
    SSL_CERT_DIR. Nothing else of the environment, such as a proxy, is heeded for what we ask.

    Raises ConfigError where these cannot be read.
    """
    try:
        return httpx2.create_ssl_context(trust_env=True)
    except OSError as error:
        named = next(name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name))
        reason = f"{named} cannot be read as certificate authorities: {error.strerror or error}"
        hint = "name a file of certificates in PEM, or unset it to trust the system's authorities"
        raise ConfigError(os.environ[named], 0, reason, hint) from None
