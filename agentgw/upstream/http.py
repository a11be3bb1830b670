"""A pool of HTTP/1.1 connections to one tool server.

Built for CPU per request: idle connections in a LIFO list, one write and one future per request,
one clock for all deadlines. It knows nothing of tokens, policy or MCP, follows no redirect, offers
no compression, and repeats a request only where no byte of it left us.
"""

from __future__ import annotations

import asyncio
import re
import select
import socket
import ssl
from collections import deque
from math import inf
from urllib.parse import urlsplit

from agentgw.errors import UpstreamFailed
from agentgw.upstream.connection import Connection
from agentgw.upstream.response import UpstreamResponse

__all__ = ["HttpOrigin", "UpstreamResponse"]

_TARGET = re.compile(rb"[\x21-\x7e]+").fullmatch

_LOOK_AFTER = 0.25
"""Seconds of idling after which a connection is looked at before it is trusted with a request."""

_ATTEMPTS = 3


class HttpOrigin:
    """The connections to one origin (scheme, host, port; RFC 6454 section 4).

    `url` is `http://` or `https://`; its path and query are kept in `target` for the caller's use.
    `ssl_context` replaces the default one (system trust, host name checked). `connect_timeout` and
    `idle_seconds` are seconds; `idle_seconds` stays below the 5 s after which common servers close.
    At `max_connections` further requests wait their turn. Raises ValueError for a URL it cannot serve.
    """

    def __init__(
        self,
        url: str,
        *,
        ssl_context: ssl.SSLContext | None = None,
        connect_timeout: float = 5.0,
        idle_seconds: float = 4.0,
        max_idle: int = 256,
        max_connections: int = 1024,
        max_header_bytes: int = 65536,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("an upstream URL starts with http:// or https:// and names a host")
        if parts.username is not None or parts.password is not None:
            raise ValueError("an upstream URL holds no user name or password")
        default_port = 443 if parts.scheme == "https" else 80
        self._host = parts.hostname
        self._port = default_port if parts.port is None else parts.port
        self.target = (parts.path or "/").encode() + (b"?" + parts.query.encode()) * bool(
            parts.query
        )
        if not _TARGET(self.target):
            raise ValueError("an upstream URL holds only visible ASCII characters; percent-encode")
        self._ssl = None
        if parts.scheme == "https":
            self._ssl = ssl_context or ssl.create_default_context()
        self._head_end = b" HTTP/1.1\r\nHost: " + self._authority(default_port) + b"\r\n"
        self._connect_timeout = connect_timeout
        self._idle_seconds = idle_seconds
        self._max_idle = max_idle
        self._max_connections = max_connections
        self._max_header_bytes = max_header_bytes
        self._loop: asyncio.AbstractEventLoop | None = None
        self._idle: list[Connection] = []
        self._live: set[Connection] = set()
        self._slots_taken = 0
        self._waiters: deque[asyncio.Future[Connection | None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._wake_at = inf
        self._closed = False
        self._emptied: asyncio.Future[None] | None = None

    @property
    def connections(self) -> int:
        """Connections that exist or are being made."""
        return self._slots_taken

    async def open(
        self,
        method: bytes,
        target: bytes,
        headers: bytes,
        body: bytes,
        *,
        deadline: float,
        max_body: int,
    ) -> UpstreamResponse:
        """Send one request; give its answer when whole, or an event stream as soon as its head is here.

        `headers` are ready lines, each ending in CRLF, without Host and Content-Length. `deadline` is
        in event-loop seconds and bounds waiting, connecting and the answer (of an event stream: its
        head). `max_body` caps the body in bytes. Cancelling the caller closes the connection.
        Raises UpstreamFailed; ValueError where method, target or headers would break the request.
        """
        request = self._render(method, target, headers, body)
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        started = loop.time()
        connection = self._take_idle(started)
        if connection is None:
            connection = await self._obtain_usable(loop, deadline)
        answer = connection.send(
            request,
            bodiless=method == b"HEAD",
            started=started,
            deadline=deadline,
            max_body=max_body,
        )
        if deadline < self._wake_at:
            self._wake(loop, deadline)
        try:
            return await answer
        except asyncio.CancelledError:
            connection.give_up(answer)
            raise

    def retire(self) -> None:
        """Keep no connection beyond the request it carries: this origin is being replaced."""
        self._max_idle = 0
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    async def close(self) -> None:
        """Close every connection; requests still running fail with UpstreamFailed."""
        self._closed = True
        self.retire()
        if self._timer is not None:
            self._timer.cancel()
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(UpstreamFailed("is being closed by the gateway"))
        for connection in tuple(self._live):
            connection.fail("is being closed by the gateway")
        if self._live and self._loop is not None:
            self._emptied = self._loop.create_future()
            await self._emptied

    # What connections report

    def released(self, connection: Connection) -> None:
        """Take back a connection whose answer is whole."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                connection.deadline = inf
                waiter.set_result(connection)
                return
        if len(self._idle) >= self._max_idle or self._loop is None:
            connection.close()
            return
        connection.deadline = self._loop.time() + self._idle_seconds
        self._idle.append(connection)
        if connection.deadline < self._wake_at:
            self._wake(self._loop, connection.deadline)

    def lost(self, connection: Connection) -> None:
        """Forget a connection that is gone."""
        if connection not in self._live:
            return
        self._live.remove(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._free_slot()
        if self._emptied is not None and not self._live and not self._emptied.done():
            self._emptied.set_result(None)

    def _authority(self, default_port: int) -> bytes:
        host = f"[{self._host}]" if ":" in self._host else self._host
        name = host if self._port == default_port else f"{host}:{self._port}"
        return name.encode("ascii" if host.isascii() else "idna")

    def _render(self, method: bytes, target: bytes, headers: bytes, body: bytes) -> bytes:
        if not method.isalpha() or (target != self.target and not _TARGET(target)):
            raise ValueError("a request line holds a method and a target of visible ASCII")
        if headers and (headers[-2:] != b"\r\n" or b"\r\n\r\n" in headers):
            raise ValueError("header lines end in CRLF each and hold no empty line")
        if not body and method not in (b"POST", b"PUT", b"PATCH"):
            return b"".join((method, b" ", target, self._head_end, headers, b"\r\n"))
        length = b"Content-Length: %d\r\n\r\n" % len(body)
        return b"".join((method, b" ", target, self._head_end, headers, length, body))

    def _take_idle(self, now: float) -> Connection | None:
        idle = self._idle
        while idle:
            connection = idle.pop()
            left = connection.deadline - now
            if not connection.usable:
                continue
            if left <= 0 or (left < self._idle_seconds - _LOOK_AFTER and _has_news(connection)):
                connection.close()
                continue
            return connection
        return None

    async def _obtain_usable(self, loop: asyncio.AbstractEventLoop, deadline: float) -> Connection:
        """One that is still open now that it is our turn; nothing has been written to it yet."""
        for _ in range(_ATTEMPTS):
            connection = await self._obtain(loop, deadline)
            if connection.usable:
                return connection
        raise UpstreamFailed("closes every connection before it is used")

    async def _obtain(self, loop: asyncio.AbstractEventLoop, deadline: float) -> Connection:
        """A new connection, or one handed over by another request at the bound."""
        if self._closed:
            raise UpstreamFailed("is being closed by the gateway")
        if self._slots_taken >= self._max_connections:
            handed = await self._wait(loop, deadline)
            if handed is not None:
                return handed
        else:
            self._slots_taken += 1
        try:
            connection = await self._connect(loop, deadline)
            if not connection.usable:
                raise UpstreamFailed("closed the connection at once")
        except BaseException:
            self._free_slot()
            raise
        self._live.add(connection)
        return connection

    async def _wait(self, loop: asyncio.AbstractEventLoop, deadline: float) -> Connection | None:
        """Wait for a connection, or for the right to make one (None)."""
        waiter: asyncio.Future[Connection | None] = loop.create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout_at(deadline):
                return await waiter
        except (TimeoutError, asyncio.CancelledError) as error:
            if waiter.cancelled():
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
            elif (handed := waiter.result()) is None:
                self._free_slot()
            elif handed.usable:
                self.released(handed)
            if isinstance(error, TimeoutError):
                raise UpstreamFailed(
                    f"had no connection free in time (all {self._max_connections} are in use)"
                ) from None
            raise

    def _free_slot(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._slots_taken -= 1

    async def _connect(self, loop: asyncio.AbstractEventLoop, deadline: float) -> Connection:
        seconds = min(deadline - loop.time(), self._connect_timeout)
        try:
            async with asyncio.timeout(seconds):
                _, connection = await loop.create_connection(
                    lambda: Connection(self, loop, self._max_header_bytes),
                    self._host,
                    self._port,
                    ssl=self._ssl,
                    server_hostname=self._host if self._ssl else None,
                )
                return connection
        except TimeoutError:
            raise UpstreamFailed(f"took no connection within {max(seconds, 0):.3g} s") from None
        except OSError as error:
            raise UpstreamFailed(_short(error)) from None

    # One clock for all deadlines

    def _wake(self, loop: asyncio.AbstractEventLoop, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._wake_at = when
        self._timer = loop.call_at(when, self._expire) if when < inf else None

    def _expire(self) -> None:
        loop = self._loop
        assert loop is not None
        # Event loops round timers to a millisecond; without the margin this would spin until then.
        now = loop.time() + 0.001
        earliest = inf
        for connection in tuple(self._live):
            if connection.deadline <= now:
                if connection in self._idle:
                    self._idle.remove(connection)
                connection.expire()
            elif connection.deadline < earliest:
                earliest = connection.deadline
        self._wake(loop, earliest)


def _has_news(connection: Connection) -> bool:
    """True where the server closed an idle connection, or spoke unasked, and we have not read it yet."""
    descriptor = connection.fileno
    if descriptor < 0:
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def _short(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"has a TLS certificate we do not trust: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"failed the TLS handshake: {error.reason or 'no common ground'}"
    if isinstance(error, socket.gaierror):
        return "has a host name that does not resolve"
    if isinstance(error, ConnectionRefusedError):
        return "refused the connection"
    if isinstance(error, ConnectionError):
        return "closed the connection before it was ready"
    return f"cannot be reached ({error.strerror or 'no address answered'})"
