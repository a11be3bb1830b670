"""The audit log on files: many appends, one writer thread, one fdatasync for all that wait.

The event loop owns the queue and every future; the thread owns the files. Batches go one at a time:
what is appended while one is being written makes the next. The thread never touches a future, it
reports with one `call_soon_threadsafe` per batch.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from agentgw.audit.files import Files, OsFiles
from agentgw.audit.keys import NoteSigner
from agentgw.audit.thread import WriterThread
from agentgw.audit.writer import SEGMENT_BYTES, LogWriter
from agentgw.core.record import log_event, uuid7
from agentgw.errors import ConfigError, Unavailable

CHECKPOINT_RECORDS = 1000
CHECKPOINT_SECONDS = 1.0
OUTCOMES_WAIT = 0.02
"""Seconds an outcome, which nobody waits for, may wait to be flushed together with the next decision."""
BUSY_GAP = 0.0007
BUSY_WAIT = 0.002
SMOOTHING = 0.05
"""Where decisions come closer than `BUSY_GAP` seconds on average, each waits up to `BUSY_WAIT` for others:
a flush costs about the same whether it carries one record or many (ADR 11)."""
FULL_BATCH = 64
"""Records that are company enough."""
CLOSED = "the audit log is closed; the gateway is stopping"

logger = logging.getLogger("agentgw.audit")

Entry = tuple[bytes, "asyncio.Future[int] | None"]


class FileLog:
    """An `AuditLog` in `{root}/{name}/`. Make one with `await FileLog.start(...)` on its own loop."""

    def __init__(
        self,
        writer: LogWriter,
        *,
        clock: Callable[[], float],
        random: Callable[[int], bytes],
        retry_seconds: float,
        stall_seconds: float,
        max_queued: int,
        checkpoint_seconds: float,
        checkpoint_records: int,
    ) -> None:
        self._writer = writer
        self._clock = clock
        self._random = random
        self._stall_seconds = stall_seconds
        self._max_queued = max_queued
        self._loop = asyncio.get_running_loop()
        self._queue: list[Entry] = []
        self._batch: list[Entry] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._last_append = 0.0
        self._gap_between = 1.0
        self._refusal: str | None = None
        self._closing = False
        self._watch: asyncio.TimerHandle | None = None
        self._refused = 0
        self._dropped = 0
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._thread = WriterThread(
            writer, self._report, retry_seconds, checkpoint_seconds, checkpoint_records
        )

    @classmethod
    async def start(
        cls,
        root: Path,
        name: str,
        signer: NoteSigner,
        *,
        files: Files | None = None,
        clock: Callable[[], float] = time.time,
        random: Callable[[int], bytes] = os.urandom,
        retry_seconds: float = 0.5,
        stall_seconds: float = 5.0,
        max_queued: int = 65_536,
        segment_bytes: int = SEGMENT_BYTES,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
        checkpoint_records: int = CHECKPOINT_RECORDS,
    ) -> FileLog:
        """Open log `name` under `root` (the `log` folder of the state directory), alone.

        A disk that refuses does not stop it: appends are refused until a retry (each
        `retry_seconds`) succeeds. A batch that takes over `stall_seconds` counts as refused.
        A checkpoint is signed `checkpoint_seconds` after a record, or once it covers `checkpoint_records`.
        Raises ConfigError where another process writes this log, or the log was altered.
        """
        writer = LogWriter(root, name, signer, files or OsFiles(), clock, random, segment_bytes)
        log = cls(
            writer, clock=clock, random=random, retry_seconds=retry_seconds,
            stall_seconds=stall_seconds, max_queued=max_queued,
            checkpoint_seconds=checkpoint_seconds, checkpoint_records=checkpoint_records,
        )  # fmt: skip
        log._thread.start()
        await log._opened
        return log

    @property
    def refusal(self) -> str | None:
        """Why appends are refused now, or None while they are taken (for readiness)."""
        return self._refusal

    async def append(self, record: dict[str, object]) -> int:
        """Write `record`; return its seq once it is durable. Raises Unavailable."""
        return await self.enqueue(record)

    def enqueue(self, record: dict[str, object]) -> asyncio.Future[int]:
        """The same; the future has the seq once it is durable. Raises Unavailable, now or in it."""
        if self._refusal is not None or len(self._queue) >= self._max_queued:
            self._refused += 1
            raise Unavailable(
                self._refusal or "the audit log's queue is full; the disk is too slow"
            )
        loop = self._loop
        future: asyncio.Future[int] = loop.create_future()
        self._queue.append((_serialise(record), future))
        now = loop.time()
        self._gap_between += (now - self._last_append - self._gap_between) * SMOOTHING
        self._last_append = now
        if self._batch is None:
            self._wake_at(now, self._patience())
        return future

    def append_soon(self, record: dict[str, object]) -> None:
        """Queue `record` in order; counted in a later record where the queue is full."""
        if self._closing or len(self._queue) >= self._max_queued:
            self._dropped += 1
            return
        try:
            body = _serialise(record)
        except (TypeError, ValueError):
            self._dropped += 1
            logger.exception("a record could not be written as JSON")
            return
        self._queue.append((body, None))
        # A timer that runs is due no later than the one this record would start.
        if self._timer is None or len(self._queue) >= FULL_BATCH:
            self._wake_at(self._loop.time(), OUTCOMES_WAIT)

    async def close(self) -> None:
        """Write what is queued, sign the last checkpoint, give the directory free."""
        if not self._closing:
            self._closing = True
            self._refusal = self._refusal or CLOSED
            if self._batch is None and self._queue and self._refusal == CLOSED:
                self._hand_over()
            elif self._batch is None:
                self._thread.send(None)
        await asyncio.shield(self._ended)

    def _patience(self) -> float:
        """Seconds to wait for company: flushing a few records costs as much as flushing many."""
        return BUSY_WAIT if self._gap_between < BUSY_GAP else 0.0

    def _wake_at(self, now: float, delay: float) -> None:
        """Hand the queue over within `delay` seconds, unless the running batch does so at its end."""
        if self._batch is not None or self._refusal not in (None, CLOSED):
            return
        if len(self._queue) >= FULL_BATCH:
            delay = 0.0
        timer = self._timer
        if timer is not None:
            if self._due <= now + delay:
                return
            timer.cancel()
        # Kept apart: what uvloop gives for a delay of nothing cannot tell when it is due.
        self._due = now + delay
        self._timer = self._loop.call_at(self._due, self._hand_over)

    def _hand_over(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._batch is not None or not self._queue:
            return
        self._batch = self._queue
        self._queue = []
        self._watch = self._loop.call_later(self._stall_seconds, self._stalled)
        self._thread.send([body for body, _ in self._batch])
        # The thread gets to the disk before the loop goes on, and both work at once (ADR 18).
        os.sched_yield()

    def _report(self, what: str, detail: Any = None) -> None:
        """Called on the thread: run the method of that name on the loop."""
        try:
            self._loop.call_soon_threadsafe(getattr(self, f"_on_{what}"), detail)
        except RuntimeError:
            logger.error("the event loop ended before the audit log was closed")

    def _on_opened(self, error: ConfigError | None) -> None:
        if self._opened.done():
            return
        if error is None:
            self._opened.set_result(None)
        else:
            self._opened.set_exception(error)

    def _on_written(self, first: int) -> None:
        batch = self._take_batch()
        for seq, (_, future) in enumerate(batch, first):
            if future is not None and not future.done():
                future.set_result(seq)
        self._refusal = CLOSED if self._closing else None
        self._go_on()

    def _on_failed(self, reason: str) -> None:
        """The disk refused: whoever waits is refused, the rest waits for better times in its order."""
        self._refusal = f"the audit log cannot be written: {reason}"
        logger.error("%s; calls are refused until it can", self._refusal)
        entries = self._take_batch() + self._queue
        self._refuse(entries)
        kept = [entry for entry in entries if entry[1] is None]
        self._dropped += max(0, len(kept) - self._max_queued)
        self._queue = kept[: self._max_queued]
        if self._closing:
            self._thread.send(None)

    def _on_recovered(self, _: None) -> None:
        logger.warning("the audit log can be written again")
        self._refusal = CLOSED if self._closing else None
        self._go_on()
        self._hand_over()

    def _on_ended(self, _: None) -> None:
        self._refuse(self._take_batch() + self._queue)
        self._refusal = self._refusal or CLOSED
        lost = self._dropped + sum(1 for _, future in self._queue if future is None)
        if lost:
            logger.error("%d records could not be written before the end", lost)
        if not self._ended.done():
            self._ended.set_result(None)

    def _stalled(self) -> None:
        """The disk does not answer: stop taking records, and let those who wait go."""
        self._refusal = "the audit log's disk does not answer"
        logger.error("%s; calls are refused until it does", self._refusal)
        waiting = self._queue
        self._refuse((self._batch or []) + waiting)
        self._queue = [entry for entry in waiting if entry[1] is None]

    def _refuse(self, entries: list[Entry]) -> None:
        for _, future in entries:
            if future is not None and not future.done():
                self._refused += 1
                future.set_exception(Unavailable(self._refusal or CLOSED))

    def _take_batch(self) -> list[Entry]:
        batch, self._batch = self._batch or [], None
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        return batch

    def _go_on(self) -> None:
        if self._refused or self._dropped:
            self._queue.append((self._gap(), None))
        if self._closing:
            if self._queue:
                self._hand_over()
            else:
                self._thread.send(None)
        elif self._queue:
            waited_for = any(future is not None for _, future in self._queue)
            delay = self._patience() if waited_for else OUTCOMES_WAIT
            self._wake_at(self._loop.time(), delay)

    def _gap(self) -> bytes:
        now = self._clock()
        event = log_event(
            id=uuid7(int(now * 1000), self._random(10)), now=now, method="log/gap", name=None,
            reason="records were refused or lost while the log could not be written",
            refused=self._refused, lost=self._dropped,
        )  # fmt: skip
        self._refused = self._dropped = 0
        return orjson.dumps(event)


def _serialise(record: dict[str, object]) -> bytes:
    try:
        return orjson.dumps(record)
    except TypeError:
        # A lone surrogate or an integer beyond 64 bits: written down rather than lost.
        text = json.dumps(record, ensure_ascii=False, separators=(",", ":"), default=str)
        return text.encode("utf-8", "replace")
