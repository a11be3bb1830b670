"""Everything on the data plane's port: which path goes where, and who may knock at all."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.types import ASGIApp

from agentgw.core.authorization_details import TOOL_DETAILS
from agentgw.http.downstream import Downstream
from agentgw.http.error_page import ERROR_PAGE
from agentgw.http.request import Receive, Scope, Send, by_name

_ALIAS = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What may stand after `/mcp/`, wider than the names of servers: others exist for nobody."""

_METADATA = "/.well-known/oauth-protected-resource"
_ISSUER_METADATA = ("/.well-known/oauth-authorization-server", "/.well-known/openid-configuration")


@dataclass(frozen=True, slots=True)
class Sign:
    """What the gateway says of itself, swapped whole on a reload.

    `hosts` are lower-case Host values, `origins` whole origins. `issuers` are the authorization servers
    of our resources, `scopes` gives those of a server's resource (None: of `/mcp`). `possession`
    says which bound tokens can be proven. `undiscovered` are servers (None: `/mcp`) without a document;
    where all are, `silent`, our own metadata as an issuer is not shown either: clients would look there next.
    """

    public_url: str
    hosts: Collection[str]
    origins: Collection[str]
    issuers: tuple[str, ...]
    scopes: Callable[[str | None], tuple[str, ...]]
    possession: Mapping[str, object]
    undiscovered: Collection[str | None] = ()
    silent: bool = False


class Site:
    """The ASGI application. `control` serves what is neither MCP nor answered here.

    `ready` gives the reason for not being ready, None while all is well; it is never shown.
    """

    def __init__(
        self, sign: Sign, downstream: Downstream, control: ASGIApp, ready: Callable[[], str | None]
    ) -> None:
        self.sign = sign
        self._downstream = downstream
        self._control = control
        self._ready = ready

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """What answers the request; for the MCP face no coroutine of ours stands around it."""
        if scope["type"] != "http":
            return _nothing()
        refused = self._at_the_gate(scope)
        if refused is not None:
            return _say(send, refused, b"")
        path: str = scope["path"]
        if b"%" in scope["raw_path"]:
            # No path of ours needs an escape, and a proxy before us may have judged it unescaped.
            return _say(send, 404, b"")
        if path == "/mcp":
            scope["agentgw.server"] = None
            return self._downstream(scope, receive, send)
        if path.startswith("/mcp/") and _ALIAS.fullmatch(path, 5):
            scope["agentgw.server"] = path[5:]
            return self._downstream(scope, receive, send)
        return self._answer(path, scope, receive, send)

    async def _answer(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        if path == "/livez":
            await _say(send, 200, b"ok\n")
        elif path == "/readyz":
            ready = self._ready() is None
            await _say(send, 200 if ready else 503, b"ready\n" if ready else b"not ready\n")
        elif path == "/errors":
            await _say(send, 200, ERROR_PAGE, b"text/html; charset=utf-8")
        elif path == _METADATA or path.startswith(_METADATA + "/"):
            await self._metadata(path.removeprefix(_METADATA), send)
        elif self.sign.silent and path.startswith(_ISSUER_METADATA):
            await _say(send, 404, b"")
        else:
            await self._control(scope, receive, send)

    def _at_the_gate(self, scope: Scope) -> int | None:
        """421 for a Host that is not ours, 403 for a web page of another origin; None to go on."""
        lines, headers = scope["headers"], by_name(scope)
        if b"origin" in headers:
            origins = [value.decode("latin-1") for name, value in lines if name == b"origin"]
            if any(origin not in self.sign.origins for origin in origins):
                return 403
        if len(headers) != len(lines) and sum(name == b"host" for name, _ in lines) > 1:
            return 400
        host = headers.get(b"host")
        if host is None or host.decode("latin-1").lower() not in self.sign.hosts:
            return 421
        return None

    async def _metadata(self, path: str, send: Send) -> None:
        """RFC 9728: the metadata of one resource; the bare form is that of `/mcp`."""
        if path in ("", "/mcp"):
            server, resource = None, "/mcp"
        elif path.startswith("/mcp/") and _ALIAS.fullmatch(path, 5):
            server, resource = path[5:], path
        else:
            await _say(send, 404, b"")
            return
        if server in self.sign.undiscovered:
            await _say(send, 404, b"")
            return
        document: dict[str, Any] = {
            "resource": self.sign.public_url + resource,
            "authorization_servers": list(self.sign.issuers),
            "bearer_methods_supported": ["header"],
            "authorization_details_types_supported": [TOOL_DETAILS],
            **self.sign.possession,
            "resource_name": "agentgw" if server is None else f"{server} through agentgw",
        }
        scopes = self.sign.scopes(server)
        if scopes:
            document["scopes_supported"] = list(scopes)
        await _say(send, 200, orjson.dumps(document), b"application/json")


async def _nothing() -> None:
    """The answer to what is no HTTP request."""


async def _say(
    send: Send, status: int, body: bytes, content_type: bytes = b"text/plain; charset=utf-8"
) -> None:
    headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
    if not body:
        headers = headers[1:]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
