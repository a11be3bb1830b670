"""A fault-injecting MCP tool server over HTTP, to try a gateway with.

    python tools/servers/faulty.py --port 0 [--record FILE]

The first line of standard output is `{"port": …}`. `/mcp/ok` is a small working tool server (2026-07-28
and handshake eras, or one of them with `?era=modern` or `?era=handshake`; tools echo, fail, progress,
structured, slow, raw). `/mcp/{fault}` answers every request with that fault (`hang`, or one of FAULTS
below); with `?on=tools/call` only that method, everything else as `/mcp/ok` would, so that a gateway
can list the tools of a server that breaks on calls.
`--record FILE` appends each request received to FILE, before it is answered, and a line with `gone`
for each one whose sender closed the connection before its answer.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from echo_tools import MODERN, TOOLS, Message, Recorder, respond

VERSION = "mcp-protocol-version"
MIB = 1 << 20
SHAPES: dict[str, Callable[[int], object]] = {
    "text": lambda size: "x" * size,
    "members": lambda size: {f"k{number:06}": 1 for number in range(size // 14)},
    "numbers": lambda size: [0.5] * (size // 5),
}
"""What fills a message with about so many bytes of JSON: one value, or as many as will go in."""


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request; `query` holds the last value of each parameter."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def message(self) -> Message:
        """The JSON-RPC message, {} where the body is none."""
        try:
            value = json.loads(self.body)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}


class Hangup(Exception):
    """Close the connection now."""


Fault = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


def head(status: str, *lines: str) -> bytes:
    """A response head with its empty line."""
    return "\r\n".join((f"HTTP/1.1 {status}", *lines, "", "")).encode()


def whole(status: str, body: bytes, *lines: str) -> bytes:
    """A response with a length."""
    return head(status, *lines, f"Content-Length: {len(body)}") + body


def as_json(message: Message, status: str = "200 OK", *lines: str) -> bytes:
    """A JSON response."""
    body = json.dumps(message).encode()
    return whole(status, body, "Content-Type: application/json", *lines)


def chunk(data: bytes) -> bytes:
    """One chunk (RFC 9112 section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(message: Message) -> bytes:
    """One server-sent event, as a chunk."""
    return chunk(b"event: message\r\ndata: " + json.dumps(message).encode() + b"\r\n\r\n")


SSE = head("200 OK", "Content-Type: text/event-stream", "Transfer-Encoding: chunked")


# Faults


async def close(request: Request, writer: asyncio.StreamWriter) -> None:
    """Close before a byte of answer."""
    raise Hangup


async def die(request: Request, writer: asyncio.StreamWriter) -> None:
    """Close in the middle of the body."""
    writer.write(head("200 OK", "Content-Type: application/json", "Content-Length: 1000") + b'{"js')
    await writer.drain()
    raise Hangup


async def status_500(request: Request, writer: asyncio.StreamWriter) -> None:
    """Answer 500 with a page."""
    writer.write(whole("500 Internal Server Error", b"<h1>Oops</h1>", "Content-Type: text/html"))


async def status_401(request: Request, writer: asyncio.StreamWriter) -> None:
    """Refuse whatever credential came."""
    writer.write(whole("401 Unauthorized", b"", 'WWW-Authenticate: Bearer error="invalid_token"'))


async def huge(request: Request, writer: asyncio.StreamWriter) -> None:
    """Answer with `?mib=200` MiB; `?chunked=1` without saying so first."""
    size = int(request.query.get("mib", "200"))
    chunked = "chunked" in request.query
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size * MIB}"
    writer.write(head("200 OK", "Content-Type: application/json", framing))
    for _ in range(size):
        writer.write(chunk(b"x" * MIB) if chunked else b"x" * MIB)
        await writer.drain()
    writer.write(b"0\r\n\r\n" if chunked else b"")


async def garbage(request: Request, writer: asyncio.StreamWriter) -> None:
    """Answer with bytes that are no HTTP."""
    writer.write(bytes(range(256)) * 4)
    await writer.drain()
    raise Hangup


async def drip(request: Request, writer: asyncio.StreamWriter) -> None:
    """Send one byte of body every `?seconds=0.1`."""
    writer.write(head("200 OK", "Content-Type: application/json", "Content-Length: 100000"))
    for _ in range(100000):
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(float(request.query.get("seconds", "0.1")))


async def redirect(request: Request, writer: asyncio.StreamWriter) -> None:
    """Send the client elsewhere (307 keeps method, body and headers)."""
    writer.write(
        whole("307 Temporary Redirect", b"", f"Location: {request.query.get('to', '/mcp/ok')}")
    )


async def headers(request: Request, writer: asyncio.StreamWriter) -> None:
    """Send `?kib=1024` KiB of headers."""
    lines = [f"X-Pad-{n}: {'x' * 1000}" for n in range(int(request.query.get("kib", "1024")))]
    writer.write(whole("200 OK", b"{}", "Content-Type: application/json", *lines))


async def deep(request: Request, writer: asyncio.StreamWriter) -> None:
    """Answer with JSON nested 100,000 deep."""
    levels = 100000
    body = b'{"jsonrpc":"2.0","id":1,"result":' + b"[" * levels + b"]" * levels + b"}"
    writer.write(whole("200 OK", body, "Content-Type: application/json"))


async def wrong_id(request: Request, writer: asyncio.StreamWriter) -> None:
    """Answer a request nobody made."""
    result = {"content": [{"type": "text", "text": "for somebody else"}], "resultType": "complete"}
    writer.write(as_json({"jsonrpc": "2.0", "id": "of-somebody-else", "result": result}))


async def not_json(request: Request, writer: asyncio.StreamWriter) -> None:
    """Say JSON and send something else."""
    writer.write(whole("200 OK", b"{'single': quotes}", "Content-Type: application/json"))


async def sse_endless(request: Request, writer: asyncio.StreamWriter) -> None:
    """Send comments for ever, every `?seconds=0.1`, and never the response."""
    writer.write(SSE)
    while True:
        writer.write(chunk(b": ping\r\n\r\n"))
        await writer.drain()
        await asyncio.sleep(float(request.query.get("seconds", "0.1")))


async def sse_cut(request: Request, writer: asyncio.StreamWriter) -> None:
    """Close an event stream before the response."""
    writer.write(SSE + chunk(b": ping\r\n\r\n"))
    await writer.drain()
    raise Hangup


async def compressed(request: Request, writer: asyncio.StreamWriter) -> None:
    """Compress an answer that nobody asked to be compressed (64 MiB in 64 KiB)."""
    body = gzip.compress(b" " * 64 * MIB)
    writer.write(whole("200 OK", body, "Content-Type: application/json", "Content-Encoding: gzip"))


async def large(request: Request, writer: asyncio.StreamWriter) -> None:
    """Answer properly, with `?mib=1` MiB of `?shape=text` (SHAPES), as an event with `?sse=1`.

    A tools/list gets a thousand tools of 2 KiB each.
    """
    shape = SHAPES[request.query.get("shape", "text")]
    content = shape(int(float(request.query.get("mib", "1")) * MIB))
    result: Message = {"resultType": "complete"}
    if request.message.get("method") == "tools/list":
        schema = {"type": "object", "properties": {"x": {"title": "x" * 2000}}}
        tools = [{"name": f"tool{n}", "inputSchema": schema} for n in range(1000)]
        result |= {"tools": tools, "ttlMs": 60000, "cacheScope": "public"}
    else:
        result |= {"content": [], "structuredContent": {"large": content}}
    message = {"jsonrpc": "2.0", "id": request.message.get("id"), "result": result}
    if "sse" in request.query:
        writer.write(SSE + event(message) + b"0\r\n\r\n")
    else:
        writer.write(as_json(message))
    await writer.drain()


FAULTS: dict[str, Fault] = {
    "close": close, "die": die, "500": status_500, "401": status_401, "huge": huge, "garbage": garbage,
    "drip": drip, "redirect": redirect, "headers": headers, "deep": deep, "wrong-id": wrong_id,
    "not-json": not_json, "sse-endless": sse_endless, "sse-cut": sse_cut, "gzip": compressed,
    "large": large,
}  # fmt: skip


# The working server


class ToolServer:
    """Speaks both eras; sessions of the handshake era live in memory."""

    def __init__(self) -> None:
        self._sessions: set[str] = set()

    async def answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        """Answer one request of a well-behaved client, and refuse others as the protocol says."""
        modern = request.headers.get(VERSION) == MODERN
        if request.query.get("era", "modern" if modern else "handshake") != (
            "modern" if modern else "handshake"
        ):
            writer.write(whole("400 Bad Request", b"unsupported protocol version"))
        elif modern:
            await self._modern(request, writer)
        else:
            await self._handshake(request, writer)

    async def _modern(self, request: Request, writer: asyncio.StreamWriter) -> None:
        if request.method != "POST":
            writer.write(whole("405 Method Not Allowed", b"", "Allow: POST"))
            return
        message = request.message
        params = message.get("params") or {}
        mirrored = [request.headers.get("mcp-method") == message.get("method")]
        if message.get("method") == "tools/call":
            mirrored.append(request.headers.get("mcp-name") == params.get("name"))
        meta = params.get("_meta") or {}
        mirrored.append(meta.get("io.modelcontextprotocol/protocolVersion") == MODERN)
        if not all(mirrored):
            error = {"code": -32020, "message": "Header mismatch"}
            refusal = {"jsonrpc": "2.0", "id": message.get("id"), "error": error}
            writer.write(as_json(refusal, "400 Bad Request"))
            return
        await self._respond(message, writer, modern=True)

    async def _handshake(self, request: Request, writer: asyncio.StreamWriter) -> None:
        session = request.headers.get("mcp-session-id")
        message = request.message
        if request.method == "POST" and message.get("method") == "initialize":
            session = secrets.token_urlsafe(16)
            self._sessions.add(session)
            await self._respond(message, writer, f"Mcp-Session-Id: {session}", modern=False)
        elif session is None:
            writer.write(whole("400 Bad Request", b"no session"))
        elif session not in self._sessions:
            writer.write(whole("404 Not Found", b"unknown session"))
        elif request.method == "POST":
            await self._respond(message, writer, modern=False)
        elif request.method == "DELETE":
            self._sessions.discard(session)
            writer.write(whole("200 OK", b""))
        else:
            writer.write(whole("405 Method Not Allowed", b"", "Allow: POST, DELETE"))

    async def _respond(
        self, message: Message, writer: asyncio.StreamWriter, *lines: str, modern: bool
    ) -> None:
        streaming = False

        async def send(notification: Message) -> None:
            nonlocal streaming
            if not streaming:
                streaming = True
                writer.write(SSE)
            writer.write(event(notification))
            await writer.drain()

        answer = await respond(message, send, modern=modern, tools=TOOLS)
        if answer is None:
            writer.write(whole("202 Accepted", b""))
        elif streaming:
            writer.write(event(answer) + b"0\r\n\r\n")
        elif modern and answer.get("error", {}).get("code") == -32601:
            writer.write(as_json(answer, "404 Not Found"))
        else:
            writer.write(as_json(answer, "200 OK", *lines))


class EndingReader(asyncio.StreamReader):
    """Tells that the other side closed without being read to its end."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = asyncio.Event()

    def feed_eof(self) -> None:
        """The other side sends no more."""
        super().feed_eof()
        self.ended.set()

    def set_exception(self, exc: Exception) -> None:
        """The connection broke."""
        super().set_exception(exc)
        self.ended.set()


class Front:
    """Reads requests off connections and picks who answers."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._tools = ToolServer()

    async def serve(self, reader: EndingReader, writer: asyncio.StreamWriter) -> None:
        """One connection, request after request."""
        try:
            while (request := await read_request(reader)) is not None:
                self._recorder.record(
                    {
                        "method": request.method,
                        "path": request.path,
                        "query": request.query,
                        "headers": request.headers,
                        "body": request.body.decode("utf-8", "replace"),
                    }
                )
                await self._answer_unless_gone(request, reader, writer)
                await writer.drain()
        except (Hangup, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer_unless_gone(
        self, request: Request, reader: EndingReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answer; stop, and say so in the record, when the client closes its connection first."""
        answer = asyncio.ensure_future(self._answer(request, writer))
        gone = asyncio.ensure_future(reader.ended.wait())
        await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if answer.done():
            await answer
            return
        answer.cancel()
        body = request.body.decode("utf-8", "replace")
        self._recorder.record({"gone": request.path, "query": request.query, "body": body})
        raise Hangup

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        room, _, mode = request.path.rpartition("/")
        on = request.query.get("on")
        if room != "/mcp" or (mode not in ("ok", "hang") and mode not in FAULTS):
            writer.write(whole("404 Not Found", b"no such mode"))
        elif mode == "ok" or (on is not None and on != request.message.get("method")):
            await self._tools.answer(request, writer)
        elif mode == "hang":
            await asyncio.Event().wait()
        else:
            await FAULTS[mode](request, writer)


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """The next request, None at the end of the connection; only what tests send is understood."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return None
    first, *lines = raw.decode("latin-1").rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    fields = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in fields}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    parts = urlsplit(target)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    return Request(method, parts.path, query, headers, body)


async def run(port: int, record: str | None) -> None:
    """Serve on loopback until ended."""
    front = Front(Recorder(record))

    def connection() -> asyncio.StreamReaderProtocol:
        reader = EndingReader()
        return asyncio.StreamReaderProtocol(reader, lambda _, writer: front.serve(reader, writer))

    server = await asyncio.get_running_loop().create_server(connection, "127.0.0.1", port)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    async with server:
        await server.serve_forever()


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(description="a fault-injecting MCP tool server")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--record", metavar="FILE")
    options = parser.parse_args()
    asyncio.run(run(options.port, options.record))


if __name__ == "__main__":
    main()
