"""The HTTP client for URLs that somebody else named: it connects to public addresses only."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from http.cookiejar import CookieJar, DefaultCookiePolicy
from ipaddress import ip_address
from typing import Any

import httpcore2
import httpx2

from agentgw.core.addresses import Address, Network, refused_address, refused_url

Resolve = Callable[[str, int], Awaitable[list[Address]]]
"""Gives the addresses of a host. Raises OSError where it has none."""

TIMEOUT = 5.0
REFUSED = "refused: "
"""How the message begins where the guard, and nobody else, refused."""
_RESOLVING = ThreadPoolExecutor(32, "resolve")
"""Whoever answers for a name can keep a thread for half a minute. The loop's own threads are few, and all
that touches the disk needs them."""

ADDRESSES_TRIED = 4
"""Addresses of one host that one connection is tried at; they share its time."""


def cookieless(transport: httpx2.AsyncBaseTransport) -> httpx2.AsyncClient:
    """A client over `transport` that brings nobody's cookies to anybody, since it asks for all users; that
    follows no redirect and heeds no proxy of the environment."""
    return httpx2.AsyncClient(
        transport=transport,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        follow_redirects=False,
        timeout=TIMEOUT,
        trust_env=False,
    )


class GuardedTransport(httpx2.AsyncHTTPTransport):
    """Refuses by address.

    `allowed` gives the networks listed by the operator now, `plain_http` whether http will do. `resolve` is
    asked once for each connection, all its answers are judged, and the connection is made to one of them,
    so that nobody can answer us and the connection differently. Any port will do, since whoever is reached
    is public anyhow. Size and time of an answer as a whole are the caller's to bound.
    """

    def __init__(
        self,
        allowed: Callable[[], Collection[Network]],
        plain_http: Callable[[], bool],
        resolve: Resolve,
        verify: ssl.SSLContext | bool,
    ) -> None:
        # httpx2 has no argument for the network below it; httpcore2, which it stands on, has. The pool that
        # httpx2 would make is never made: if a release looks for it elsewhere, it finds nothing and fails.
        self._plain_http = plain_http
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=httpx2.create_ssl_context(verify=verify, trust_env=False),
            max_connections=100,
            max_keepalive_connections=20,
            keepalive_expiry=5.0,
            network_backend=_GuardedNetwork(allowed, resolve),
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request. Raises httpx2.ConnectError for what is refused, httpx2.UnsupportedProtocol for a
        URL of the wrong form."""
        why = refused_url(str(request.url), self._plain_http())
        if why is not None:
            raise httpx2.UnsupportedProtocol(f"{REFUSED}{why}", request=request)
        return await super().handle_async_request(request)


class _GuardedNetwork(httpcore2.AsyncNetworkBackend):
    def __init__(self, allowed: Callable[[], Collection[Network]], resolve: Resolve) -> None:
        self._allowed = allowed
        self._resolve = resolve
        self._inner = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                addresses = await self._resolve(host, port)
        except TimeoutError:
            raise httpcore2.ConnectTimeout("its host was not resolved in time") from None
        except (OSError, UnicodeError):
            raise httpcore2.ConnectError("its host has no address") from None
        allowed = self._allowed()
        for address in addresses:
            # All must be right: with one that is not, whoever answers for the host plays a game.
            if (why := refused_address(address, allowed)) is not None:
                raise httpcore2.ConnectError(f"{REFUSED}{why}")
        failure: Exception = httpcore2.ConnectError("its host has no address")
        tried = addresses[:ADDRESSES_TRIED]
        for address in tried:
            try:
                patience = timeout and timeout / len(tried)
                return await self._inner.connect_tcp(
                    str(address), port, patience, local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore2.AsyncNetworkStream:
        raise httpcore2.ConnectError(f"{REFUSED}no URL leads to a unix socket")

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


async def resolve_host(host: str, port: int) -> list[Address]:
    """All addresses of a host, as this machine resolves it. Raises OSError."""

    def ask() -> list[Any]:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)

    found = await asyncio.get_running_loop().run_in_executor(_RESOLVING, ask)
    return list(dict.fromkeys(ip_address(each[4][0]) for each in found))
