"""Tool servers in a thread of the test: any ASGI application, with all it was sent at hand."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.harness import MODERN, free_port, wait_for

Document = dict[str, Any]


@dataclass(frozen=True)
class Sent:
    """One HTTP request a tool server got."""

    method: str
    headers: dict[str, str]
    raw_headers: bytes
    body: bytes

    @property
    def message(self) -> Document:
        """Its JSON-RPC message, {} where it had none."""
        document: Document = json.loads(self.body) if self.body else {}
        return document


class Recording:
    """An ASGI application that keeps each request before it passes it on."""

    def __init__(self, inner: ASGIApp) -> None:
        self._inner = inner
        self.requests: list[Sent] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        body, more = b"", scope["method"] == "POST"
        while more:
            part = await receive()
            body += part.get("body", b"")
            more = part.get("more_body", False)
        lines = scope["headers"]
        headers = {name.decode(): value.decode("latin-1") for name, value in lines}
        raw = b"\n".join(name + b": " + value for name, value in lines)
        self.requests.append(Sent(scope["method"], headers, raw, body))
        replayed = scope["method"] != "POST"

        async def replay() -> Message:
            nonlocal replayed
            if replayed:
                return await receive()
            replayed = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._inner(scope, replay, send)

    def of(self, method: str) -> list[Sent]:
        """The requests with this JSON-RPC method, or this HTTP method."""
        return [r for r in self.requests if r.method == method or r.message.get("method") == method]


@contextmanager
def serving(application: ASGIApp, lifespan: bool = False, port: int | None = None) -> Iterator[str]:
    """Serve `application` on loopback; yields its URL."""
    port = port or free_port()
    config = uvicorn.Config(
        application, port=port, log_config=None, lifespan="on" if lifespan else "off"
    )
    config.timeout_graceful_shutdown = 1
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started, "the tool server to listen")
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)


def tool(name: str, description: str = "A tool.", **more: Any) -> Document:
    """A tool's definition."""
    return {"name": name, "description": description, "inputSchema": {"type": "object"}, **more}


@dataclass
class Scripted:
    """A 2026-07-28 tool server whose `tools` a test may change; each call answers its own name.

    `page` is how many tools one page of the list holds, `endless` gives a list without an end.
    """

    tools: list[Document]
    page: int = 1000
    endless: bool = False
    before_result: list[Document] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        message = json.loads((await receive())["body"])
        answer = {"jsonrpc": "2.0", "id": message.get("id"), **self._answer(message)}
        events = [*self.before_result, answer] if message["method"] == "tools/call" else [answer]
        if len(events) > 1:
            body = b"".join(b"data: " + json.dumps(e).encode() + b"\n\n" for e in events)
            kind = b"text/event-stream"
        else:
            body, kind = json.dumps(answer).encode(), b"application/json"
        headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _answer(self, message: Document) -> Document:
        lasting = {"resultType": "complete", "ttlMs": 0, "cacheScope": "public"}
        match message["method"]:
            case "server/discover":
                about = {"supportedVersions": [MODERN], "capabilities": {"tools": {}}}
                return {"result": {**lasting, **about}}
            case "tools/list":
                start = int(message["params"].get("cursor", "0"))
                end = start + self.page
                more = {"nextCursor": str(end)} if self.endless or end < len(self.tools) else {}
                return {"result": {**lasting, "tools": self.tools[start:end], **more}}
            case "tools/call":
                text = {"type": "text", "text": message["params"]["name"]}
                return {"result": {"resultType": "complete", "content": [text]}}
        return {"error": {"code": -32601, "message": "Method not found"}}
