"""How answers leave: whole ones in one write, streams as they come, refusals with their challenge."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping

from agentgw.http.connection import respond_at_once
from agentgw.http.request import Scope, Send

ASSURED: Mapping[str, bytes] = {
    kind: f"agentgw-chain-assurance: {kind}\r\n".encode()
    for kind in ("token", "grant", "audit-only")
}
"""The line that says how much of the chain the server was shown whose answer this is."""

PIECE = 256 * 1024
"""Bytes of a body that are written before others have their turn."""


def metadata_url(public_url: str, server: str | None) -> str:
    """Where the RFC 9728 document of a resource is (section 3.1)."""
    path = "/mcp" if server is None else f"/mcp/{server}"
    return f"{public_url}/.well-known/oauth-protected-resource{path}"


async def respond(
    scope: Scope,
    send: Send,
    status: int,
    content_type: bytes,
    body: bytes,
    event_id: str | None,
    extra: bytes = b"",
) -> None:
    """Send a whole answer; `extra` are ready header lines, `event_id` None for the unauthenticated."""
    lines = extra
    if content_type:
        lines += b"content-type: " + content_type + b"\r\n"
    if event_id is not None:
        lines += b"agentgw-event-id: " + event_id.encode("ascii") + b"\r\n"
    if len(body) < PIECE and respond_at_once(scope, status, lines, body):
        return
    headers = [*_split(lines), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await _send_body(send, body, more=False)


async def _send_body(send: Send, body: bytes, *, more: bool) -> None:
    """Send in pieces: copying and encrypting all of a large body at once would hold up others."""
    if len(body) > PIECE:
        left = memoryview(body)
        while len(left) > PIECE:
            await send({"type": "http.response.body", "body": left[:PIECE], "more_body": True})
            await asyncio.sleep(0)
            left = left[PIECE:]
        body = bytes(left)
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def stream_out(
    scope: Scope, send: Send, stream: AsyncIterator[bytes], event_id: str, extra: bytes
) -> None:
    """Send an event stream to its end, or until the agent is gone."""
    lines = (
        extra
        + b"content-type: text/event-stream\r\ncache-control: no-cache\r\nx-accel-buffering: no\r\n"
        + b"agentgw-event-id: "
        + event_id.encode("ascii")
        + b"\r\n"
    )
    await send({"type": "http.response.start", "status": 200, "headers": _split(lines)})
    try:
        async for chunk in stream:
            await _send_body(send, chunk, more=True)
    except asyncio.CancelledError:
        # The agent is gone, or cancelled its own request: nothing follows.
        task: asyncio.Task[object] | None = scope["agentgw.task"]
        if task is not None:
            task.uncancel()
    finally:
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()
    await send({"type": "http.response.body", "body": b""})


def _split(lines: bytes) -> list[tuple[bytes, bytes]]:
    pairs = (line.split(b": ", 1) for line in lines.split(b"\r\n") if line)
    return [(name, value) for name, value in pairs]


def quotable(reason: str) -> str:
    """`reason` as it may stand in a quoted header parameter (RFC 9110 section 5.6.4)."""
    return re.sub(r'[^\x20-\x7e]|["\\]', "'", reason)[:200]
