"""Sessions we hold at handshake servers for agents that cannot hold them themselves."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

Open = Callable[[], Awaitable["Session"]]


@dataclass(frozen=True, slots=True)
class Session:
    """A session at a server: its id (None where the server keeps none) and its negotiated version."""

    id: str | None
    version: str


class SessionPool:
    """One session per binding (subject and chain), opened once however many calls ask for it at a time.

    Keeps the `capacity` most recently used; the server's own idle limit ends the others.
    """

    def __init__(self, capacity: int = 1000) -> None:
        self._capacity = capacity
        self._sessions: OrderedDict[str, asyncio.Future[Session]] = OrderedDict()

    async def get(self, binding: str, open_session: Open) -> Session:
        """The session of `binding`, opened with `open_session` where there is none."""
        found = self._sessions.get(binding)
        if found is None:
            found = asyncio.ensure_future(open_session())
            self._sessions[binding] = found
            if len(self._sessions) > self._capacity:
                self._sessions.popitem(last=False)
        else:
            self._sessions.move_to_end(binding)
        try:
            return await asyncio.shield(found)
        except BaseException:
            if found.done() and self._sessions.get(binding) is found:
                del self._sessions[binding]
            raise

    def drop(self, binding: str, session: Session) -> None:
        """Forget `session` if it still is the one of `binding`: the server no longer knows it."""
        found = self._sessions.get(binding)
        if found is not None and found.done() and not found.cancelled():
            if found.exception() is None and found.result() is session:
                del self._sessions[binding]

    def clear(self) -> None:
        """Forget all sessions."""
        self._sessions.clear()
