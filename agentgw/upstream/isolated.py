"""A stdio tool server that runs once for each user: nothing of one user's process is seen by another."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from agentgw.core.principal import Subject
from agentgw.errors import UpstreamFailed
from agentgw.upstream.link import Authorise, Outbound, Reply, ServerInfo
from agentgw.upstream.process import ProcessLink

Key = tuple[str, str] | None
"""Issuer and subject; None for what we ask on our own account."""

LOOKS = 4
"""How often within the idle time idle processes are looked for."""


@dataclass(slots=True)
class _Place:
    """A process and who it is for. `users` are the messages that were just given to it."""

    link: ProcessLink
    subject: Subject | None
    used: float
    users: int = 0

    @property
    def idle(self) -> bool:
        return self.users == 0 and not self.link.retire()


class IsolatedLink:
    """Implements Link over one process for each subject, and one that is nobody's, for lists of tools.

    `make` gives the link of a subject's process, which starts with its first message. There are `most` at a
    time; for one more the one that was idle for longest ends, and without such a one the message fails. One
    that is idle for `idle_seconds` ends as well.
    """

    relays_sessions = False

    def __init__(
        self,
        name: str,
        make: Callable[[Subject | None], ProcessLink],
        *,
        most: int,
        idle_seconds: float,
    ) -> None:
        self._name = name
        self._make = make
        self._most = most
        self._idle_seconds = idle_seconds
        self._places: OrderedDict[Key, _Place] = OrderedDict()
        self._ending: set[asyncio.Task[None]] = set()
        self._one_newcomer = asyncio.Lock()
        self._tidying: asyncio.Task[None] | None = None
        self._info: ServerInfo | None = None
        self._closed = False
        self.on_list_changed: Callable[[], None] = lambda: None

    @property
    def name(self) -> str:
        return self._name

    @property
    def processes(self) -> int:
        """How many there are at most right now, those that are ending included."""
        return len(self._places) + len(self._ending)

    def describe(self) -> str | None:
        """Of the process that is nobody's only: another's last words may be a user's own."""
        place = self._places.get(None)
        return None if place is None else place.link.describe()

    def retire(self) -> bool:
        for key in [key for key, place in self._places.items() if place.idle]:
            self._end(key)
        return bool(self._places)

    def forget(self, gone: Callable[[Subject], bool]) -> None:
        """End the processes of users who may no longer call; what they are doing fails."""
        for key, place in list(self._places.items()):
            if place.subject is not None and gone(place.subject):
                self._end(key)

    async def close(self) -> None:
        self._closed = True
        if self._tidying is not None:
            self._tidying.cancel()
        for key in list(self._places):
            self._end(key)
        while self._ending:
            await asyncio.wait(self._ending)

    async def info(self, authorise: Authorise) -> ServerInfo:
        if self._info is None:
            async with self._process_of(None) as link:
                self._info = await link.info(authorise)
        return self._info

    async def send(self, out: Outbound) -> Reply:
        subject = None if out.caller is None else out.caller.subject
        try:
            async with (
                asyncio.timeout_at(out.deadline) as patience,
                self._process_of(subject) as link,
            ):
                patience.reschedule(None)  # the process itself keeps the deadline from here on
                return await link.send(out)
        except TimeoutError:
            raise UpstreamFailed("no process of it became free in time") from None

    async def open_stream(self, out: Outbound, headers: Mapping[str, str]) -> Reply:
        return Reply(405)

    async def end_session(self, out: Outbound) -> Reply:
        return Reply(405)

    @asynccontextmanager
    async def _process_of(self, subject: Subject | None) -> AsyncIterator[ProcessLink]:
        """The process of `subject`, which does not end for being idle while it is held."""
        place = self._hold(subject) or await self._settle(subject)
        try:
            yield place.link
        finally:
            place.users -= 1
            place.used = asyncio.get_running_loop().time()

    def _hold(self, subject: Subject | None) -> _Place | None:
        key = _key(subject)
        place = self._places.get(key)
        if place is not None:
            place.users += 1
            place.subject = subject
            self._places.move_to_end(key)
        return place

    async def _settle(self, subject: Subject | None) -> _Place:
        """A place for a subject that has none, once there is room. Raises UpstreamFailed."""
        async with self._one_newcomer:
            known = self._hold(subject)
            if known is not None:
                return known
            while self.processes >= self._most:
                if not self._ending:
                    self._end(self._longest_idle())
                await asyncio.wait(self._ending, return_when=asyncio.FIRST_COMPLETED)
            if self._closed:
                raise UpstreamFailed("was stopped by the gateway")
            link = self._make(subject)
            link.on_list_changed = self._list_changed
            now = asyncio.get_running_loop().time()
            place = self._places[_key(subject)] = _Place(link, subject, now, users=1)
            if self._tidying is None or self._tidying.done():
                self._tidying = asyncio.create_task(self._tidy())
            return place

    def _longest_idle(self) -> Key:
        for key, place in self._places.items():
            if place.idle:
                return key
        raise UpstreamFailed(f"all its {self._most} processes are at work for other users")

    def _end(self, key: Key) -> None:
        """Let nobody have this process again, and end it."""
        place = self._places.pop(key)
        task = asyncio.create_task(place.link.close())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _tidy(self) -> None:
        """End what is idle for too long, until there is nothing left."""
        while self._places:
            await asyncio.sleep(self._idle_seconds / LOOKS)
            now = asyncio.get_running_loop().time()
            for key, place in list(self._places.items()):
                if not place.idle:
                    place.used = now
                elif now - place.used >= self._idle_seconds:
                    self._end(key)

    def _list_changed(self) -> None:
        self.on_list_changed()


def _key(subject: Subject | None) -> Key:
    return None if subject is None else (subject.iss, subject.sub)
