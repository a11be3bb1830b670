"""The answer of a tool server over HTTP, whole or as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

from agentgw.errors import UpstreamFailed

HIGH_WATER = 65536
"""Bytes of an event stream held for a slow reader before reading from the socket pauses."""

CUT_OFF = "was cut off by the gateway"


class Source(Protocol):
    """The connection an unfinished answer still comes from."""

    def fail(self, reason: str) -> None:
        """End the exchange and close the connection."""

    def resume_reading(self) -> None:
        """The reader has caught up."""


class UpstreamResponse(AsyncIterator[bytes]):
    """The answer of a tool server (RFC 9110 section 6).

    `status` is the final status code, `headers` maps lower-case names to values, repeated fields
    joined by `, `. `complete` is the whole body once it is here and nothing was iterated, else None.
    Iterating gives the body as it comes; reading from the socket pauses when the reader is slow.
    Iteration has no size cap: an event stream may live for hours.
    Whoever does not read to the end must call `abort`. `shown` are the secrets its request carried, as
    whoever sent it says: no answer may hold them.
    """

    __slots__ = (
        "_buffered", "_chunks", "_connection", "_error", "_taken", "_waiter",
        "complete", "headers", "shown", "status",
    )  # fmt: skip

    def __init__(
        self,
        status: int,
        headers: dict[bytes, bytes],
        chunks: list[bytes],
        connection: Source | None,
    ) -> None:
        self.status = status
        self.headers = headers
        self.complete: bytes | None = b"".join(chunks) if connection is None else None
        self.shown: tuple[bytes, ...] = ()
        self._chunks = chunks
        self._connection = connection
        self._buffered = 0
        self._taken = False
        self._error: UpstreamFailed | None = None
        self._waiter: asyncio.Future[None] | None = None

    def __aiter__(self) -> UpstreamResponse:
        return self

    async def __anext__(self) -> bytes:
        """The bytes that came since the last look. Raises UpstreamFailed where the answer broke off."""
        while not self._chunks:
            if self._error is not None:
                raise self._error
            if self._connection is None:
                raise StopAsyncIteration
            await self._wait()
        chunk = b"".join(self._chunks)
        self._chunks.clear()
        self._buffered = 0
        self._taken = True
        if self._connection is not None:
            self._connection.resume_reading()
        return chunk

    def abort(self) -> None:
        """Close the connection of an answer that is not read to its end; harmless on a finished one."""
        if self._connection is not None:
            self._connection.fail(CUT_OFF)

    def push(self, data: bytes) -> bool:
        """Take bytes from the connection; True asks it to pause."""
        self._chunks.append(data)
        self._buffered += len(data)
        self._wake()
        return self._buffered > HIGH_WATER

    def finish(self, error: UpstreamFailed | None) -> None:
        """The connection has nothing more to say."""
        self._connection = None
        self._error = error
        if error is None and not self._taken:
            self.complete = b"".join(self._chunks)
        self._wake()

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        except asyncio.CancelledError:
            self.abort()
            raise
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
