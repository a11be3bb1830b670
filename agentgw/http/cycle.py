"""One request on a connection and the answer to it, as ASGI sees them and by a shorter way."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Protocol

_log = logging.getLogger("agentgw.http")

HIGH_WATER = 65536
"""Bytes of a body held for an application that does not read before the connection stops reading."""

STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}
_UNFIT_NAME = re.compile(rb'[\x00-\x20\x7f-\xff()<>@,;:\\[\]={}"/?]')
_UNFIT_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")

Asgi = Callable[[Any, Any, Any], Awaitable[None]]


class Wire(Protocol):
    """The connection that a cycle happens on."""

    def write(self, data: bytes) -> None:
        """Send bytes, in order."""

    def close(self) -> None:
        """Take no more requests; what was written still leaves."""

    def is_closing(self) -> bool:
        """Whether it is closed or about to be."""

    def is_full(self) -> bool:
        """Whether the client is behind with reading."""

    async def drained(self) -> None:
        """Wait until it is not, or is gone."""

    def pause_reading(self) -> None:
        """Take no more bytes for now."""

    def resume_reading(self) -> None:
        """Take bytes again."""

    def answered(self, cycle: Cycle) -> None:
        """The answer is written."""


class Cycle:
    """One request and its answer. The connection feeds it; the application reads and answers.

    `keep_alive` says whether the connection may carry another one; `expects` whether the client waits
    for a word before it sends the body (RFC 9110 section 10.1.1).
    """

    __slots__ = (
        "_chunked", "_chunks", "_left", "_news", "_wire", "answered", "disconnected", "expects",
        "keep_alive", "more_body", "scope", "size", "started", "task",
    )  # fmt: skip

    def __init__(self, wire: Wire, scope: dict[str, Any], keep_alive: bool, expects: bool) -> None:
        self._wire = wire
        self.scope = scope
        self.keep_alive = keep_alive
        self.expects = expects
        self.task: asyncio.Task[None] | None = None
        self.more_body = True
        self.size = 0
        self.disconnected = self.started = self.answered = False
        self._chunks: list[bytes] = []
        self._news: asyncio.Future[None] | None = None
        self._chunked = False
        self._left = 0

    # What the connection tells

    def take(self, data: bytes) -> None:
        """A piece of the body."""
        if self.answered:
            return
        self._chunks.append(data)
        self.size += len(data)
        if self.size > HIGH_WATER:
            self._wire.pause_reading()
        if self._news is not None:
            self._tell()

    def end(self) -> None:
        """The body is whole."""
        self.more_body = False
        if self._news is not None:
            self._tell()

    def disconnect(self) -> None:
        """The client is gone."""
        self.disconnected = True
        if self._news is not None:
            self._tell()

    # What the application does

    async def run(self, app: Asgi, done: Callable[[asyncio.Task[None]], None]) -> None:
        """Let `app` answer, and see that there is an answer; `done` is told at the end."""
        try:
            await app(self.scope, self.receive, self.send)
            if not self.answered and not self.disconnected:
                _log.error("the application did not finish its answer")
                await self._fail()
        except asyncio.CancelledError:
            self._wire.close()
            raise
        except Exception:
            _log.exception("the application failed on a request")
            await self._fail()
        finally:
            assert self.task is not None
            done(self.task)
            # Scope and cycle know each other: apart, both go at once and not with the collector.
            self.scope.clear()
            self.task = None

    async def receive(self) -> dict[str, Any]:
        """ASGI: what has come of the body, waiting for more of it; or that the client is gone."""
        if self.expects and not self._wire.is_closing():
            self._wire.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.expects = False
        if not self.disconnected and not self.answered:
            self._wire.resume_reading()
            if self.more_body and not self._chunks:
                await self._hear()
        if self.disconnected or self.answered:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": self._taken(), "more_body": self.more_body}

    async def send(self, message: Any) -> None:
        """ASGI: the head of the answer, or a piece of its body."""
        if self._wire.is_full() and not self.disconnected:
            await self._wire.drained()
        if self.disconnected:
            return
        if message["type"] == "http.response.start" and not self.started:
            self._start(message["status"], message.get("headers", ()))
        elif message["type"] == "http.response.body" and self.started and not self.answered:
            self._continue(message.get("body", b""), message.get("more_body", False))
        else:
            raise RuntimeError(f"{message['type']} is out of turn")

    def body_at_once(self) -> bytes | None:
        """The whole body where it has already come, else None: then it must be awaited."""
        if self.more_body or self.disconnected or self.expects:
            return None
        return self._taken()

    def respond_at_once(self, status: int, lines: bytes, body: bytes) -> bool:
        """Write a whole answer in one go; False where the client is behind, or one was begun.

        `lines` are ready header lines; Content-Length is added.
        """
        if self.started or self._wire.is_full():
            return False
        if self.disconnected:
            return True
        self._begin()
        end = b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n"
        head = b"%bcontent-length: %d\r\n%b" % (STATUS_LINES[status] + lines, len(body), end)
        self._wire.write(head if self.scope["method"] == "HEAD" else head + body)
        self._finish()
        return True

    def _begin(self) -> None:
        self.started = True
        if self.expects and self.more_body:
            # Never told to send its body, the client may do so or not: what comes next is ambiguous.
            self.keep_alive = False
        self.expects = False

    def _start(self, status: int, headers: Any) -> None:
        length: int | None = None
        parts = [STATUS_LINES[status]]
        for name, value in headers:
            if _UNFIT_NAME.search(name) or _UNFIT_VALUE.search(value):
                raise RuntimeError("a header of the answer holds characters that none may")
            if name == b"content-length":
                length = int(value)
            parts += (name, b": ", value, b"\r\n")
        self._begin()
        if not self.keep_alive:
            parts.append(b"connection: close\r\n")
        bodiless = self.scope["method"] == "HEAD" or status in (204, 304)
        self._chunked = length is None and not bodiless
        self._left = 0 if bodiless or length is None else length
        if self._chunked:
            parts.append(b"transfer-encoding: chunked\r\n")
        parts.append(b"\r\n")
        self._wire.write(b"".join(parts))

    def _continue(self, body: bytes, more: bool) -> None:
        if self._chunked:
            piece = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            self._wire.write(piece if more else piece + b"0\r\n\r\n")
        elif self.scope["method"] != "HEAD":
            self._left -= len(body)
            if self._left < 0 or (self._left and not more):
                raise RuntimeError("the body has another length than Content-Length says")
            self._wire.write(body)
        if not more:
            self._finish()

    def _finish(self) -> None:
        self.answered = True
        if self._news is not None:
            self._tell()
        if not self.keep_alive:
            self._wire.close()
        self._wire.answered(self)

    async def _fail(self) -> None:
        self.keep_alive = False
        line = b"content-type: text/plain\r\n"
        if not self.respond_at_once(500, line, b"Internal Server Error"):
            self._wire.close()

    def _taken(self) -> bytes:
        chunks = self._chunks
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._chunks, self.size = [], 0
        return body

    async def _hear(self) -> None:
        self._news = asyncio.get_running_loop().create_future()
        try:
            await self._news
        finally:
            self._news = None

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
