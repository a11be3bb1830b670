"""The static upstream: an MCP server of canned answers that costs as little as Python allows.

It also plays the OIDC issuer (discovery document and JWKS), so that the gateway under test has one
to trust. Prints `{"port": N}` when it listens. Nothing it gets is verified: it is the far end of
the measurement, not part of it. `GET /last` shows the Authorization header it saw last, so that the
bench can tell a gateway that mints from one that merely relays.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any, cast

import httptools
import uvloop
from wire import CALL_ANSWER, CALL_ID, REVISION, TOOL_DEFINITION, call_answer

_CALL_MARK = b'"tools/call"'
_ID_MARK = f'"id":{CALL_ID},'.encode()
_CAPABILITIES = {"tools": {"listChanged": False}}
_SERVER_INFO = {"name": "static-upstream", "version": "1.0.0"}


def _answer(body: bytes, status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


_CANNED = _answer(CALL_ANSWER)
_ACCEPTED = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"
_METHOD_NOT_ALLOWED = b"HTTP/1.1 405 Method Not Allowed\r\nAllow: POST\r\nContent-Length: 0\r\n\r\n"


def mcp_answer(body: bytes) -> bytes:
    """The whole HTTP answer to one JSON-RPC message. Only what is not a tools/call is parsed."""
    if _CALL_MARK in body and _ID_MARK in body:
        return _CANNED
    message: dict[str, Any] = json.loads(body)
    if "id" not in message:
        return _ACCEPTED
    method = message.get("method")
    if method == "tools/call":
        return _answer(call_answer(message["id"]))
    result = _RESULTS.get(str(method))
    reply: dict[str, Any] = {"jsonrpc": "2.0", "id": message["id"]}
    if result is None:
        reply["error"] = {"code": -32601, "message": f"Method not found: {method}"}
        return _answer(json.dumps(reply).encode(), "404 Not Found")
    reply["result"] = result
    return _answer(json.dumps(reply).encode())


_META = {"io.modelcontextprotocol/serverInfo": _SERVER_INFO}
_LISTED = {"resultType": "complete", "ttlMs": 3_600_000, "cacheScope": "public", "_meta": _META}
_RESULTS: dict[str, dict[str, Any]] = {
    "tools/list": {"tools": [TOOL_DEFINITION], **_LISTED},
    "server/discover": {
        "supportedVersions": [REVISION],
        "capabilities": _CAPABILITIES,
        "serverInfo": _SERVER_INFO,
        **_LISTED,
    },
    "initialize": {
        "protocolVersion": "2025-11-25",
        "capabilities": _CAPABILITIES,
        "serverInfo": _SERVER_INFO,
    },
    "ping": {},
}


class Upstream(asyncio.Protocol):
    """One connection. Only the callbacks it needs exist: httptools skips the others."""

    last: bytes = b""

    def __init__(self, documents: dict[bytes, bytes]) -> None:
        self._documents = documents
        self._body: list[bytes] = []
        self._url = b""
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"POST"):
            Upstream.last = data
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def on_url(self, url: bytes) -> None:
        self._url = url

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        method = self._parser.get_method()
        if method == b"POST":
            answer = mcp_answer(b"".join(self._body))
            self._body.clear()
        elif method == b"GET" and self._url == b"/last":
            answer = _answer(json.dumps({"authorization": _authorization(Upstream.last)}).encode())
        elif method == b"GET" and self._url in self._documents:
            answer = self._documents[self._url]
        else:
            answer = _METHOD_NOT_ALLOWED
        self._transport.write(answer)


def _authorization(request: bytes) -> str:
    for line in request.partition(b"\r\n\r\n")[0].split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"authorization":
            return value.strip().decode("ascii", "replace")
    return ""


async def serve(jwks: bytes) -> None:
    """Serve until cancelled on a free port of 127.0.0.1; `jwks` is the issuer's JWK Set."""
    documents: dict[bytes, bytes] = {}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Upstream(documents), "127.0.0.1", 0, backlog=1024)
    port = server.sockets[0].getsockname()[1]
    issuer = f"http://127.0.0.1:{port}"
    discovery = {
        "issuer": issuer,
        "jwks_uri": f"{issuer}/jwks",
        "authorization_endpoint": f"{issuer}/authorize",
        "token_endpoint": f"{issuer}/token",
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    }
    found = _answer(json.dumps(discovery).encode())
    documents[b"/.well-known/openid-configuration"] = found
    documents[b"/.well-known/oauth-authorization-server"] = found
    documents[b"/jwks"] = _answer(jwks)
    print(json.dumps({"port": port}), flush=True)
    await server.serve_forever()


def main() -> None:
    """Run the upstream as a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jwks", type=Path, help="file with the issuer's JWK Set")
    arguments = parser.parse_args()
    jwks = arguments.jwks.read_bytes() if arguments.jwks else b'{"keys":[]}'
    try:
        uvloop.run(serve(jwks))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
