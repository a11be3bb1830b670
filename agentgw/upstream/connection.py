"""One HTTP/1.1 connection to a tool server, told what to send and asked for one answer at a time."""

from __future__ import annotations

import asyncio
import logging
from math import inf
from typing import Protocol, cast

import httptools

from agentgw.errors import UpstreamFailed
from agentgw.upstream.response import CUT_OFF, UpstreamResponse

_log = logging.getLogger(__name__)

MAX_REPEATED_HEADERS = 100


class Owner(Protocol):
    """What a connection tells the pool it belongs to."""

    def released(self, connection: Connection) -> None:
        """The answer is whole and the connection may carry another request."""

    def lost(self, connection: Connection) -> None:
        """The connection is gone."""


class Connection(asyncio.Protocol):
    """Carries one request at a time; the parser calls the `on_` methods.

    `deadline` (event-loop seconds) is what the owner's clock looks at: the end of the running
    request, or of the idle time. Every exit goes through `_conclude` or `fail`.
    """

    __slots__ = (
        "_answer", "_bodiless", "_chunks", "_ended", "_headers", "_keep", "_loop",
        "_max_body", "_max_header_bytes", "_owner", "_parser", "_paused", "_quiet", "_repeats",
        "_response", "_size", "_started", "_status", "_transport", "_until_close",
        "deadline",
    )  # fmt: skip

    def __init__(
        self, owner: Owner, loop: asyncio.AbstractEventLoop, max_header_bytes: int
    ) -> None:
        self.deadline = inf
        self._owner = owner
        self._loop = loop
        self._max_header_bytes = max_header_bytes
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[UpstreamResponse] | None = None
        self._response: UpstreamResponse | None = None
        self._paused = False

    @property
    def usable(self) -> bool:
        """True while a request may be written."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def fileno(self) -> int:
        """The socket's descriptor, -1 when there is none."""
        sock = None if self._transport is None else self._transport.get_extra_info("socket")
        return -1 if sock is None else int(sock.fileno())

    def send(
        self, request: bytes, *, bodiless: bool, started: float, deadline: float, max_body: int
    ) -> asyncio.Future[UpstreamResponse]:
        """Write `request` in one go; the future gives its answer or raises UpstreamFailed.

        `bodiless` says that the answer has no body whatever its headers say (HEAD).
        """
        transport = self._transport
        if transport is None:
            raise UpstreamFailed("closed the connection")
        self._answer = answer = self._loop.create_future()
        self._headers: dict[bytes, bytes] = {}
        self._chunks: list[bytes] = []
        self._size = self._quiet = self._repeats = self._status = 0
        self._ended = self._keep = self._until_close = False
        self._bodiless = bodiless
        self._max_body = max_body
        self._started = started
        self.deadline = deadline
        transport.write(request)
        return answer

    def give_up(self, answer: asyncio.Future[UpstreamResponse]) -> None:
        """Nobody waits for `answer` any more: close, unless it already ended."""
        if answer.done() and not answer.cancelled():
            answer.exception()
        if self._answer is answer:
            self.fail(CUT_OFF)

    def expire(self) -> None:
        """The deadline has come: for the running request, or for idling."""
        if self._answer is None:
            self.close()
        else:
            self.fail(f"gave no answer within {self.deadline - self._started:.3g} s")

    def fail(self, reason: str) -> None:
        """End the running exchange with UpstreamFailed(reason) and close the connection."""
        answer, response = self._answer, self._response
        self._answer = self._response = None
        self.close()
        if response is not None:
            response.finish(UpstreamFailed(reason))
        elif answer is not None and not answer.done():
            answer.set_exception(UpstreamFailed(reason))

    def close(self) -> None:
        """Close at once; what was not sent is dropped."""
        if self._transport is not None:
            self._transport.abort()

    def resume_reading(self) -> None:
        """The reader has caught up."""
        if self._paused:
            self._paused = False
            if self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called once by the event loop."""
        # uvloop's transports are no subclasses of asyncio.Transport.
        self._transport = cast(asyncio.Transport, transport)
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        """Feed the parser; whatever goes wrong here ends this connection only."""
        parser = self._parser
        if self._answer is None or parser is None:
            self.close()  # bytes that nobody asked for must not become the next caller's answer
            return
        self._quiet += len(data)
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._keep = False
            if not self._ended:
                self.fail(_reason(error))
                return
        if self._ended:
            self._conclude()
        elif self._quiet > self._max_header_bytes:
            self.fail(f"sent more than {self._max_header_bytes} bytes of headers")

    def connection_lost(self, exc: Exception | None) -> None:
        """Called once by the event loop, after our own close too."""
        self._transport = self._parser = None
        if self._answer is not None:
            if self._until_close and exc is None:
                self._conclude()
            elif self._status:
                self.fail("closed the connection in the middle of its answer")
            else:
                self.fail("closed the connection before it answered")
        self._owner.lost(self)

    # httptools callbacks: an UpstreamFailed raised here stops the parser and ends the exchange

    def on_message_begin(self) -> None:
        """Start of a head: the answer's, or one after an interim (1xx) answer."""
        if self._ended:
            raise UpstreamFailed("sent bytes after its answer")
        self._headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header line; trailer fields are dropped (RFC 9110 section 6.5.1)."""
        if self._status:
            return
        name = name.lower()
        headers = self._headers
        if name in headers:
            self._repeats += 1
            if self._repeats > MAX_REPEATED_HEADERS:
                raise UpstreamFailed("repeated its headers too often")
            value = headers[name] + b", " + value
        headers[name] = value

    def on_headers_complete(self) -> None:
        """Judge the head: what no later byte can mend is refused here."""
        parser = self._parser
        assert parser is not None
        status = parser.get_status_code()
        if status < 200:
            return
        self._status = status
        headers = self._headers
        if self._quiet > self._max_header_bytes:
            self._check_head_size()
        encoding = headers.get(b"content-encoding")
        if encoding is not None and encoding.strip().lower() not in (b"", b"identity"):
            raise UpstreamFailed("compressed its answer although we did not offer to read that")
        if self._bodiless:
            self._ended = True
            return
        self._keep = parser.should_keep_alive()
        self._check_framing(headers)
        media_type = headers.get(b"content-type")
        if media_type is not None and media_type[:17].lower() == b"text/event-stream":
            self._start_stream()

    def on_body(self, data: bytes) -> None:
        """A piece of the body, without chunk framing."""
        if self._ended:
            return
        self._quiet = 0
        if self._response is not None:
            if self._response.push(data) and not self._paused and self._transport is not None:
                self._paused = True
                self._transport.pause_reading()
            return
        self._size += len(data)
        if self._size > self._max_body:
            raise UpstreamFailed(f"answered with more than {self._max_body} bytes")
        self._chunks.append(data)

    def on_message_complete(self) -> None:
        """End of a message; `data_received` acts on it once the parser is done with its bytes."""
        if self._status:
            self._ended = True

    def _check_head_size(self) -> None:
        size = sum(len(name) + len(value) + 4 for name, value in self._headers.items())
        if size > self._max_header_bytes:
            raise UpstreamFailed(f"sent more than {self._max_header_bytes} bytes of headers")

    def _check_framing(self, headers: dict[bytes, bytes]) -> None:
        """RFC 9112 section 6: chunked, a length, or (last) until the connection closes."""
        coding = headers.get(b"transfer-encoding")
        length = headers.get(b"content-length")
        if coding is not None:
            if coding.strip().lower() != b"chunked":
                raise UpstreamFailed("broke HTTP: a transfer coding other than chunked")
        elif length is None:
            self._until_close = self._status not in (204, 304)
        elif int(length) > self._max_body and self._status != 304:
            raise UpstreamFailed(f"answered with more than {self._max_body} bytes")

    def _start_stream(self) -> None:
        answer = self._answer
        assert answer is not None
        self.deadline = inf
        self._response = response = UpstreamResponse(self._status, self._headers, [], self)
        if not answer.done():
            answer.set_result(response)

    def _conclude(self) -> None:
        answer, response = self._answer, self._response
        self._answer = self._response = None
        if response is not None:
            response.finish(None)
        elif answer is not None and not answer.done():
            answer.set_result(UpstreamResponse(self._status, self._headers, self._chunks, None))
        if self._keep and self.usable:
            self.resume_reading()
            self._owner.released(self)
        else:
            self.close()


def _reason(error: Exception) -> str:
    cause = error.__context__
    if isinstance(cause, UpstreamFailed):
        return cause.reason
    if isinstance(error, httptools.HttpParserUpgrade):
        return "broke HTTP: it switched protocols"
    if isinstance(error, httptools.HttpParserCallbackError):
        _log.error("an answer could not be taken in", exc_info=cause)
        return "sent an answer that could not be taken in"
    return f"broke HTTP: {error}"
