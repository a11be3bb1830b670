"""Calls under way in handshake sessions, by the name under which their agents can cancel them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from agentgw.gateway.incoming import Incoming

Flight = tuple[str, str | int]


class Flights:
    """The tasks of this worker by session and request id."""

    def __init__(self) -> None:
        self._tasks: dict[Flight, asyncio.Task[object]] = {}

    def take_off(self, incoming: Incoming) -> Flight | None:
        """The current task can be cancelled from now on; None where its agent could not name it."""
        if incoming.session is None or not incoming.session.id or incoming.message.id is None:
            return None
        task = asyncio.current_task()
        assert task is not None
        flight = (incoming.session.id, incoming.message.id)
        self._tasks[flight] = task
        return flight

    def land(self, flight: Flight) -> None:
        """It is over."""
        self._tasks.pop(flight, None)

    def cancel(self, session_id: str, request_id: str | int) -> None:
        """Give up a call, where this worker has it."""
        task = self._tasks.get((session_id, request_id))
        if task is not None:
            task.cancel()

    async def until_landed(
        self, stream: AsyncIterator[bytes], flight: Flight
    ) -> AsyncIterator[bytes]:
        """`stream`, whose call can be cancelled by name until it ends."""
        try:
            async for chunk in stream:
                yield chunk
        finally:
            self.land(flight)
            if isinstance(stream, AsyncGenerator):
                await stream.aclose()
