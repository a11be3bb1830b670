"""uvicorn's HTTP/1.1 connection, with the limits it does not have and a shorter way out.

The short way writes head and body at once. It touches uvicorn's request cycle; `tests/http` hold it to
that, and everything works without it under any ASGI server.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

MAX_TARGET = 8192
_USER_TIMEOUT: int | None = getattr(socket, "TCP_USER_TIMEOUT", None)


class Pipeline(list[Any]):
    """Requests that wait for the one before them: rarely any, so not worth a deque's memory."""

    def appendleft(self, item: Any) -> None:
        """Queue behind the others; `pop` takes the one that waits longest."""
        self.insert(0, item)


class LimitedConnection(HttpToolsProtocol):
    """One connection. Class attributes are set by `limited`: bytes, count, and seconds."""

    max_header_bytes = 32 * 1024
    max_headers = 100
    header_deadline = 10.0
    write_deadline = 30.0

    _head_bytes = 0
    _head_done = False
    _message_done = False
    _between = True
    _problem: tuple[int, str] | None = None
    _timer: asyncio.TimerHandle | None = None
    _active: RequestResponseCycle | None = None
    _idle_since: float | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _unsent = 0
    _sent_some = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.pipeline = Pipeline()  # type: ignore[assignment]
        if self.scheme == "https" and _USER_TIMEOUT is not None:
            # What TLS has encrypted waits below this transport, where only the kernel sees it.
            milliseconds = int(self.write_deadline * 1000)
            with contextlib.suppress(OSError):
                transport.get_extra_info("socket").setsockopt(
                    socket.IPPROTO_TCP, _USER_TIMEOUT, milliseconds
                )
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        super().connection_lost(exc)
        cycle = self._active
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
            task: Any = cycle.scope.get("agentgw.task")
            if task is not None:
                task.cancel()

    def data_received(self, data: bytes) -> None:
        self._message_done = False
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._between:
            # Empty lines between requests start nothing, so the wait for the next one goes on.
            if self._active is None or self._active.response_complete:
                self._arm()
        elif not self._head_done:
            # What came in one read with the end of another request counts from the next read on.
            self._head_bytes += 0 if self._message_done else len(data)
            if self._head_bytes > self.max_header_bytes + MAX_TARGET:
                self._problem = (431, "Request header fields too large.")
                self.send_400_response("")
            else:
                self._arm()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._between = self._head_done = False
        self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        self.url += url
        if len(self.url) > MAX_TARGET:
            self._fail(414, "Request target too long.")

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._head_done:  # trailers are no headers (RFC 9110 section 6.5.1)
            self.headers.append((name.lower(), value))
        elif name.lower() == b"transfer-encoding":
            self._fail(400, "Transfer-Encoding is no trailer.")

    def _check_headers(self) -> None:
        """What uvicorn lets pass and we do not, once all headers are in."""
        size = chunked = 0
        for name, value in self.headers:
            size += len(name) + len(value) + 4
            if name == b"transfer-encoding":
                chunked += 1
                if value.strip().lower() != b"chunked":
                    self._fail(400, "Transfer-Encoding must be chunked.")
            elif name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
        if size > self.max_header_bytes or len(self.headers) > self.max_headers:
            self._fail(431, "Request header fields too large.")
        if chunked and self.parser.get_http_version() != "1.1":
            self._fail(400, "Transfer-Encoding is not part of this HTTP version.")

    def on_headers_complete(self) -> None:
        if not self.url.startswith(b"/") and self.url != b"*":
            self._fail(400, "The request target must be a path.")
        if self.parser.should_upgrade():
            self._fail(400, "There is no other protocol to upgrade to.")
        self._check_headers()
        self._head_done = True
        self._disarm()
        super().on_headers_complete()
        self.cycle.scope["agentgw.cycle"] = self.cycle  # type: ignore[typeddict-unknown-key]

    def on_message_complete(self) -> None:
        self._message_done = self._between = True
        self._disarm()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self._write_timer is not None or self.transport.get_write_buffer_size():
            self._watch_writing()
        if not self.transport.is_closing():
            self.flow.resume_reading()
            if self.pipeline:
                self._start_asgi_task(*self.pipeline.pop())
            else:
                self._rest()
        unread = not self._between and self._head_done and self.cycle.response_complete
        if unread and not self.transport.is_closing():
            # Answered before the body was in: what is left of it must come soon, or never.
            self._unset_keepalive_if_required()
            self._arm()

    def _rest(self) -> None:
        """Wait for the next request, on one timer for all the waits of a connection."""
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since = None

    def timeout_keep_alive_handler(self) -> None:
        """Close if the wait is over; look again later if a request came in between."""
        self.timeout_keep_alive_task = None
        if self._idle_since is None or self.transport.is_closing():
            return
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self.timeout_keep_alive_task = self.loop.call_later(
                left, self.timeout_keep_alive_handler
            )
        else:
            self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        self._sent_some = True
        super().resume_writing()

    def _watch_writing(self) -> None:
        """See that what was written leaves: a client that never reads must not hold it for ever."""
        unsent = self.transport.get_write_buffer_size()
        if unsent < self._unsent:
            self._sent_some = True
        self._unsent = unsent
        if self._write_timer is None and unsent:
            self._sent_some = False
            self._write_timer = self.loop.call_later(self.write_deadline, self._unread)

    def _unread(self) -> None:
        """Abort, as closing would wait for the client, where nothing has left since the last look."""
        self._write_timer = None
        unsent = self.transport.get_write_buffer_size()
        if unsent and unsent >= self._unsent and not self._sent_some:
            self.transport.abort()
        else:
            self._watch_writing()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._active = cycle
        super()._start_asgi_task(cycle, app)

    def send_400_response(self, msg: str) -> None:
        cycle = self._active
        if cycle is not None and not cycle.response_complete:
            own = cycle is self.cycle and cycle.more_body and not cycle.response_started
            cycle.disconnected = True
            if not own:
                # The client would take it for the answer to the request that is still under way.
                self.transport.close()
                return
        if self._problem is None:
            super().send_400_response(msg)
            return
        status, text = self._problem
        body = text.encode("ascii")
        self.transport.write(
            STATUS_LINE[status]
            + b"content-type: text/plain; charset=utf-8\r\nconnection: close\r\n"
            + b"content-length: %d\r\n\r\n" % len(body)
            + body
        )
        self.transport.close()

    def _fail(self, status: int, text: str) -> None:
        self._problem = (status, text)
        raise ValueError(text)

    def _arm(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.header_deadline, self._too_slow)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            self.transport.close()


def limited(
    max_header_bytes: int,
    max_headers: int,
    header_deadline: float,
    write_deadline: float = LimitedConnection.write_deadline,
) -> type[LimitedConnection]:
    """A connection class with these limits."""
    return type(
        "Connection",
        (LimitedConnection,),
        {
            "max_header_bytes": max_header_bytes,
            "max_headers": max_headers,
            "header_deadline": header_deadline,
            "write_deadline": write_deadline,
        },
    )


def body_at_once(scope: Any) -> bytes | None:
    """The whole request body where it has already arrived, else None: then it must be awaited."""
    cycle = scope.get("agentgw.cycle")
    if cycle is None or cycle.more_body or cycle.disconnected or cycle.waiting_for_100_continue:
        return None
    body = bytes(cycle.body)
    cycle.body.clear()
    return body


def respond_at_once(scope: Any, status: int, lines: bytes, body: bytes) -> bool:
    """Write a whole response in one go; False where this connection offers no such way.

    `lines` are ready header lines; Content-Length is added.
    """
    cycle = scope.get("agentgw.cycle")
    if cycle is None or cycle.flow.write_paused or cycle.response_started:
        return False
    if cycle.disconnected:
        return True
    cycle.response_started = True
    end = b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n"
    head = STATUS_LINE[status] + lines + b"content-length: %d\r\n" % len(body) + end
    cycle.transport.write(head if scope["method"] == "HEAD" else head + body)
    cycle.response_complete = True
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
    return True
