"""One HTTP/1.1 connection of an agent: its limits, its deadlines, one answer at a time (ADR 9)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol, cast

import httptools

from agentgw.core.certificate import ClientCertificate
from agentgw.http.client_certificate import certificate_on, keep
from agentgw.http.cycle import STATUS_LINES, Asgi, Cycle

MAX_TARGET = 8192
_USER_TIMEOUT: int | None = getattr(socket, "TCP_USER_TIMEOUT", None)
_ASGI = {"version": "3.0", "spec_version": "2.3"}


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one connection: bytes and number of request headers, seconds for a head to be in, for the
    client to read on, and for an idle connection to stay."""

    header_bytes: int = 32 * 1024
    headers: int = 100
    header_deadline: float = 10.0
    write_deadline: float = 30.0
    idle: float = 60.0


class ServerState(Protocol):
    """What uvicorn's server knows of its connections and waits for at its end."""

    connections: set[Any]
    tasks: set[asyncio.Task[None]]


class Connection(asyncio.Protocol):
    """Parses requests, lets `app` answer them in turn, and ends where the client breaks a limit.

    Every refusal of a head ends the connection: what follows it could be read in two ways.
    """

    __slots__ = (
        "_active", "_app", "_between", "_certificate", "_client", "_drained", "_full",
        "_head_bytes", "_head_done", "_head_timer", "_headers", "_idle_since", "_idle_timer",
        "_limits", "_loop", "_moved_on", "_parser", "_paused", "_problem", "_receiving",
        "_secure", "_sent_some", "_server", "_transport", "_unsent", "_url", "_waiting",
        "_write_timer",
    )  # fmt: skip

    def __init__(
        self, app: Asgi, limits: Limits, server: ServerState, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._app = app
        self._limits = limits
        self._server = server
        self._loop = loop
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        # Whether there is more than one request in a read is for us to tell, not for the parser.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._head_done = self._moved_on = False
        self._between = True
        self._problem: tuple[int, str] | None = None
        self._receiving: Cycle | None = None
        self._active: Cycle | None = None
        self._waiting: list[Cycle] = []
        self._head_timer: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._idle_since: float | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._unsent = 0
        self._sent_some = self._full = self._paused = False
        self._drained: asyncio.Future[None] | None = None

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio.Transport.
        self._transport = cast(asyncio.Transport, transport)
        self._server.connections.add(self)
        self._secure = transport.get_extra_info("sslcontext") is not None
        self._certificate: ClientCertificate | None = None
        if self._secure:
            self._certificate = certificate_on(transport.get_extra_info("ssl_object"))
        peer = transport.get_extra_info("peername")
        self._client = (str(peer[0]), int(peer[1])) if isinstance(peer, tuple) else None
        if self._secure and _USER_TIMEOUT is not None:
            # What TLS has encrypted waits below this transport, where only the kernel sees it.
            milliseconds = int(self._limits.write_deadline * 1000)
            with contextlib.suppress(OSError):
                transport.get_extra_info("socket").setsockopt(
                    socket.IPPROTO_TCP, _USER_TIMEOUT, milliseconds
                )
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._disarm()
        for timer in (self._write_timer, self._idle_timer):
            if timer is not None:
                timer.cancel()
        self._write_timer = self._idle_timer = self._parser = None
        self.resume_writing()
        for cycle in (self._active, self._receiving):
            if cycle is not None and not cycle.answered:
                cycle.disconnect()
                if cycle.task is not None:
                    cycle.task.cancel()

    def data_received(self, data: bytes) -> None:
        self._moved_on = False
        self._idle_since = None
        assert self._parser is not None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            return  # refused with its head
        except httptools.HttpParserError:
            self._refuse()
            return
        if self._between:
            # Empty lines between requests start nothing, so the wait for the next one goes on.
            if (self._active is None or self._active.answered) and not self.is_closing():
                self._arm()
        else:
            # A head, a trailer or a chunk's extension counts from the read on that holds nothing else.
            self._head_bytes += 0 if self._moved_on else len(data)
            if self._head_bytes > self._limits.header_bytes + MAX_TARGET:
                self._problem = (431, "Request header fields too large.")
                self._refuse()
            elif not self._head_done and not self.is_closing():
                self._arm()

    def pause_writing(self) -> None:
        self._full = True
        self._watch_writing()

    def resume_writing(self) -> None:
        self._full, self._sent_some = False, True
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    # httptools: an error raised here stops the parser and ends the connection

    def on_message_begin(self) -> None:
        """A request begins."""
        self._between = self._head_done = False
        self._head_bytes = 0
        self._url = b""
        self._headers = []

    def on_url(self, url: bytes) -> None:
        """A piece of the request target."""
        self._url += url
        if len(self._url) > MAX_TARGET:
            self._fail(414, "Request target too long.")

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header line, or a trailer: those are no headers (RFC 9110 section 6.5.1)."""
        if not self._head_done:
            self._headers.append((name.lower(), value))
        elif name.lower() == b"transfer-encoding":
            self._fail(400, "Transfer-Encoding is no trailer.")

    def on_headers_complete(self) -> None:
        """The head is in: judge it, and let the application begin."""
        parser = self._parser
        assert parser is not None
        headers = dict(self._headers)
        expects = self._check_head(parser, headers)
        self._head_done, self._moved_on, self._head_bytes = True, True, 0
        self._disarm()
        version = parser.get_http_version()
        path, _, query = self._url.partition(b"?")
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": _ASGI,
            "http_version": version,
            "method": parser.get_method().decode("ascii"),
            "scheme": "https" if self._secure else "http",
            # As it came: no path of ours needs an escape, and `Site` answers none that has one.
            "path": path.decode("ascii"),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": self._headers,
            "agentgw.headers": headers,
            "client": self._client,
            "server": None,
        }
        keep_alive = version != "1.0" and parser.should_keep_alive()
        cycle = scope["agentgw.cycle"] = Cycle(self, scope, keep_alive, expects)
        if self._certificate is not None:
            keep(scope, self._certificate)
        self._receiving = cycle
        if self._active is None or self._active.answered:
            self._begin(cycle)
        else:
            self.pause_reading()
            self._waiting.append(cycle)

    def on_body(self, data: bytes) -> None:
        """A piece of the body, without chunk framing."""
        assert self._receiving is not None
        self._moved_on, self._head_bytes = True, 0
        self._receiving.take(data)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._moved_on = self._between = True
        self._disarm()
        assert self._receiving is not None
        self._receiving.end()

    # What uvicorn's server asks

    def shutdown(self) -> None:
        """Close once the request under way is answered."""
        cycle = self._receiving
        if cycle is None or cycle.answered:
            self.close()
        else:
            cycle.keep_alive = False

    # What an cycle asks (cycle.Wire)

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def close(self) -> None:
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def is_full(self) -> bool:
        return self._full

    async def drained(self) -> None:
        self._drained = self._loop.create_future()
        await self._drained

    def pause_reading(self) -> None:
        if not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._paused and not self._waiting:
            self._paused = False
            self._transport.resume_reading()

    def answered(self, cycle: Cycle) -> None:
        if self._write_timer is not None or self._transport.get_write_buffer_size():
            self._watch_writing()
        if self.is_closing():
            return
        if self._waiting:
            self._begin(self._waiting.pop(0))
        else:
            self._rest()
        self.resume_reading()
        if not self._between and self._head_done and cycle is self._receiving:
            # Answered before the body was in: what is left of it must come soon, or never.
            self._idle_since = None
            self._arm()

    def _begin(self, cycle: Cycle) -> None:
        self._active = cycle
        tasks = self._server.tasks
        task = cycle.task = self._loop.create_task(cycle.run(self._app, tasks.discard))
        tasks.add(task)

    def _check_head(self, parser: httptools.HttpRequestParser, headers: dict[bytes, bytes]) -> bool:
        """What the parser lets pass and we do not; whether the client waits for `100 Continue`."""
        if not self._url.isascii() or (not self._url.startswith(b"/") and self._url != b"*"):
            self._fail(400, "The request target must be a path.")
        if parser.should_upgrade():
            self._fail(400, "There is no other protocol to upgrade to.")
        lines = self._headers
        if b"transfer-encoding" in headers:
            codings = [value for name, value in lines if name == b"transfer-encoding"]
            if any(value.strip().lower() != b"chunked" for value in codings):
                self._fail(400, "Transfer-Encoding must be chunked.")
            if parser.get_http_version() != "1.1":
                self._fail(400, "Transfer-Encoding is not part of this HTTP version.")
        size = sum(map(len, chain.from_iterable(lines))) + 4 * len(lines)
        if size > self._limits.header_bytes or len(lines) > self._limits.headers:
            self._fail(431, "Request header fields too large.")
        return b"expect" in headers and any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in lines
        )

    def _fail(self, status: int, text: str) -> None:
        self._problem = (status, text)
        raise ValueError(text)

    def _refuse(self) -> None:
        """Say what is wrong with the request, unless it would pass for another's answer; and close."""
        active = self._active
        in_body = self._head_done and not self._between
        if active is not None and (in_body or not active.answered):
            own = active is self._receiving and active.more_body and not active.started
            active.disconnect()
            if not own:
                self.close()
                return
        status, text = self._problem or (400, "Invalid HTTP request received.")
        body = text.encode("ascii")
        head = b"content-type: text/plain; charset=utf-8\r\nconnection: close\r\n"
        length = b"content-length: %d\r\n\r\n" % len(body)
        self.write(STATUS_LINES[status] + head + length + body)
        self.close()

    def _arm(self) -> None:
        if self._head_timer is None:
            self._head_timer = self._loop.call_later(self._limits.header_deadline, self._too_slow)

    def _disarm(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        self._head_timer = None
        self.close()

    def _rest(self) -> None:
        """Wait for the next request, on one timer for all the waits of a connection."""
        self._idle_since = self._loop.time()
        if self._idle_timer is None:
            self._idle_timer = self._loop.call_later(self._limits.idle, self._idled)

    def _idled(self) -> None:
        """Close if the wait is over; look again later if a request came in between."""
        self._idle_timer = None
        if self._idle_since is None or self.is_closing():
            return
        left = self._idle_since + self._limits.idle - self._loop.time()
        if left > 0:
            self._idle_timer = self._loop.call_later(left, self._idled)
        else:
            self.close()

    def _watch_writing(self) -> None:
        """See that what was written leaves: a client that never reads must not hold it for ever."""
        unsent = self._transport.get_write_buffer_size()
        if unsent < self._unsent:
            self._sent_some = True
        self._unsent = unsent
        if self._write_timer is None and unsent:
            self._sent_some = False
            self._write_timer = self._loop.call_later(self._limits.write_deadline, self._unread)

    def _unread(self) -> None:
        """Abort, as closing would wait for the client, where nothing has left since the last look."""
        self._write_timer = None
        unsent = self._transport.get_write_buffer_size()
        if unsent and unsent >= self._unsent and not self._sent_some:
            self._transport.abort()
        else:
            self._watch_writing()


def connections(app: Asgi, limits: Limits) -> Callable[..., Connection]:
    """What makes the connections of one server; takes the arguments uvicorn gives to its own."""

    def connect(
        config: object,
        server_state: ServerState,
        app_state: object,
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> Connection:
        return Connection(app, limits, server_state, _loop or asyncio.get_running_loop())

    return connect


def body_at_once(scope: Any) -> bytes | None:
    """The whole request body where it has already arrived, else None: then it must be awaited."""
    cycle: Cycle | None = scope.get("agentgw.cycle")
    return None if cycle is None else cycle.body_at_once()


def respond_at_once(scope: Any, status: int, lines: bytes, body: bytes) -> bool:
    """Write a whole response in one go; False where this connection offers no such way.

    `lines` are ready header lines; Content-Length is added.
    """
    cycle: Cycle | None = scope.get("agentgw.cycle")
    return cycle is not None and cycle.respond_at_once(status, lines, body)
