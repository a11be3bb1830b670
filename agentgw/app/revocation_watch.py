"""Keeps what this worker knows of revocations within half a second of the database."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from agentgw.core.record import rfc3339_ms
from agentgw.core.recorder import Recorder
from agentgw.core.revocation import Revocation, Revoked
from agentgw.errors import Unavailable
from agentgw.registry.revocations import CLAIM_SECONDS, Event, Revocations

PERIOD_SECONDS = 0.25
PATIENCE_SECONDS = 5.0
"""How long the database may stay silent before nobody is served: who was revoked is unknown then."""

_log = logging.getLogger("agentgw")


class RevocationWatch:
    """Reads the table of `store` into `revoked`, then calls `changed`.

    What a command line did to the table is recorded here, by whichever worker sees it first. `clock` gives
    Unix seconds.
    """

    def __init__(
        self,
        store: Revocations,
        revoked: Revoked,
        changed: Callable[[], None],
        recorder: Recorder,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._revoked = revoked
        self._changed = changed
        self._recorder = recorder
        self._clock = clock
        self._seen = 0
        self._asked = 0.0
        self._recording: set[asyncio.Task[None]] = set()
        self._one_at_a_time = asyncio.Lock()
        # Its own thread: those of the pool may all be waiting for the disk.
        self._thread = ThreadPoolExecutor(1, "revocations")
        self._take(store.since(0))
        revoked.expire(clock())

    async def run(self) -> None:
        """Look at the database until cancelled."""
        while True:
            await asyncio.sleep(PERIOD_SECONDS)
            try:
                await self.refresh()
            except Unavailable as error:
                if not self._revoked.stale:
                    _log.error("nobody is served, since revocations cannot be read: %s", error)
                self._revoked.stale = True
            except Exception:
                _log.exception("failed on a revocation: nobody is served")
                self._revoked.stale = True

    async def refresh(self) -> None:
        """Take on what the database holds by now. Raises Unavailable where it cannot be read."""
        async with self._one_at_a_time:
            changes, events = await self._read()
            for event in events:
                self._recording.add(task := asyncio.create_task(self._record(event)))
                task.add_done_callback(self._recording.discard)
            if self._revoked.stale:
                _log.warning("revocations can be read again")
                self._revoked.stale = False
            self._revoked.expire(self._clock())
            self._take(changes)
            if changes:
                self._changed()

    async def close(self) -> None:
        """Wait for what is under way."""
        await asyncio.gather(*self._recording)
        await asyncio.to_thread(self._thread.shutdown)
        self._store.close()

    async def _read(self) -> tuple[list[Revocation], list[Event]]:
        under_way = asyncio.get_running_loop().run_in_executor(self._thread, self._look)
        done, _ = await asyncio.wait({under_way}, timeout=PATIENCE_SECONDS)
        if not done and not self._revoked.stale:
            _log.error("nobody is served: the state database does not answer")
            self._revoked.stale = True
        return await under_way

    def _look(self) -> tuple[list[Revocation], list[Event]]:
        now = self._clock()
        if not self._store.moved() and 0 <= now - self._asked < CLAIM_SECONDS:
            return [], []
        self._asked = 0.0
        found = self._store.since(self._seen), self._store.claim(now)
        self._asked = now
        return found

    def _take(self, changes: list[Revocation]) -> None:
        self._revoked.apply(changes)
        if changes:
            self._seen = changes[-1].seq

    async def _record(self, event: Event) -> None:
        """Write what somebody did at a command line; its claim lapses where the log cannot be written."""
        detail = {"at": rfc3339_ms(event.at), **event.detail}
        try:
            await self._recorder.record(event.method, event_id=event.event_id, detail=detail)
            await asyncio.to_thread(self._store.recorded, event.event_id)
        except Unavailable as error:
            _log.error("what a command did is not recorded yet: %s", error)
