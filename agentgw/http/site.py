"""Everything on the data plane's port: which path goes where, and who may knock at all."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.types import ASGIApp

from agentgw.http.downstream import Downstream
from agentgw.http.error_page import ERROR_PAGE
from agentgw.http.request import Receive, Scope, Send

_ALIAS = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What may stand after `/mcp/`, wider than the names of servers: others exist for nobody."""

_METADATA = "/.well-known/oauth-protected-resource"


@dataclass(frozen=True, slots=True)
class Sign:
    """What the gateway says of itself, swapped whole on a reload.

    `hosts` are lower-case Host values, `origins` whole origins. `issuers` are the authorization servers
    of our resources, `scopes` gives those of a server's resource (None: of `/mcp`).
    """

    public_url: str
    hosts: Collection[str]
    origins: Collection[str]
    issuers: tuple[str, ...]
    scopes: Callable[[str | None], tuple[str, ...]]


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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        refused = self._at_the_gate(scope)
        if refused is not None:
            await _say(send, refused, b"")
            return
        path: str = scope["path"]
        if b"%" in scope["raw_path"]:
            # No path of ours needs an escape, and a proxy before us may have judged it unescaped.
            await _say(send, 404, b"")
            return
        if path == "/mcp":
            scope["agentgw.server"] = None
            await self._downstream(scope, receive, send)
        elif path.startswith("/mcp/") and _ALIAS.fullmatch(path, 5):
            scope["agentgw.server"] = path[5:]
            await self._downstream(scope, receive, send)
        elif path == "/livez":
            await _say(send, 200, b"ok\n")
        elif path == "/readyz":
            ready = self._ready() is None
            await _say(send, 200 if ready else 503, b"ready\n" if ready else b"not ready\n")
        elif path == "/errors":
            await _say(send, 200, ERROR_PAGE, b"text/html; charset=utf-8")
        elif path == _METADATA or path.startswith(_METADATA + "/"):
            await self._metadata(path.removeprefix(_METADATA), send)
        else:
            await self._control(scope, receive, send)

    def _at_the_gate(self, scope: Scope) -> int | None:
        """421 for a Host that is not ours, 403 for a web page of another origin; None to go on."""
        host: bytes | None = None
        for name, value in scope["headers"]:
            if name == b"host":
                if host is not None:
                    return 400
                host = value
            elif name == b"origin" and value.decode("latin-1") not in self.sign.origins:
                return 403
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
        document: dict[str, Any] = {
            "resource": self.sign.public_url + resource,
            "authorization_servers": list(self.sign.issuers),
            "bearer_methods_supported": ["header"],
            "resource_name": "agentgw" if server is None else f"{server} through agentgw",
        }
        scopes = self.sign.scopes(server)
        if scopes:
            document["scopes_supported"] = list(scopes)
        await _say(send, 200, orjson.dumps(document), b"application/json")


async def _say(
    send: Send, status: int, body: bytes, content_type: bytes = b"text/plain; charset=utf-8"
) -> None:
    headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
    if not body:
        headers = headers[1:]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
