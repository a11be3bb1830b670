"""Many writes, one transaction: whoever waits for the disk waits together (ADR 11 has the measurement).

The event loop owns the queue and every future; one thread owns the database. Batches go one at a time:
what is asked for while one is being written makes the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError

from agentgw.errors import AgentgwError, Unavailable

FULL_BATCH = 64
"""Writes that are company enough."""
BUSY_GAP = 0.003
BUSY_WAIT = 0.004
SMOOTHING = 0.05
"""Where writes come closer than `BUSY_GAP` seconds on average, each waits up to `BUSY_WAIT` for others."""

Write = Callable[[Connection], None]
Waiting = tuple[Write, "asyncio.Future[None]"]


class GroupCommit:
    """Runs writes in one transaction per batch, in the order they came, on a thread of its own.

    `failed` makes the error of a database that cannot be written. One event loop may use it.
    """

    def __init__(self, engine: Engine, failed: Callable[[], Unavailable]) -> None:
        self._engine = engine
        self._failed = failed
        self._thread = ThreadPoolExecutor(1, "group-commit")
        self._queue: list[Waiting] = []
        self._under_way: asyncio.Future[list[Exception | None]] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._last = 0.0
        self._gap = 1.0
        self._closed = False

    async def run(self, write: Write) -> None:
        """Do `write` within the next transaction; on return it is on disk.

        Raises what `write` raises of our own errors, Unavailable where the database cannot be written.
        A caller who goes away does not take the write along.
        """
        if self._closed:
            raise self._failed()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._queue.append((write, done))
        now = loop.time()
        self._gap += (now - self._last - self._gap) * SMOOTHING
        self._last = now
        self._wake()
        await done

    async def close(self) -> None:
        """Write what is queued, and end the thread."""
        self._closed = True
        while self._queue or self._under_way is not None:
            self._hand_over()
            if self._under_way is not None:
                await asyncio.wait([self._under_way])
        self._thread.shutdown()

    def _wake(self) -> None:
        """Hand the queue over soon; the batch that is under way does so at its end."""
        if self._under_way is not None:
            return
        if len(self._queue) >= FULL_BATCH:
            self._hand_over()
        elif self._timer is None:
            patience = BUSY_WAIT if self._gap < BUSY_GAP else 0.0
            self._timer = asyncio.get_running_loop().call_later(patience, self._hand_over)

    def _hand_over(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._under_way is not None or not self._queue:
            return
        batch, self._queue = self._queue, []
        loop = asyncio.get_running_loop()
        self._under_way = loop.run_in_executor(self._thread, self._commit, batch)
        self._under_way.add_done_callback(lambda task: self._written(batch, task))

    def _commit(self, batch: list[Waiting]) -> list[Exception | None]:
        """On the thread: what became of each write."""
        try:
            with self._engine.begin() as connection:
                return [_fate(write, connection) for write, _ in batch]
        except OperationalError as error:
            return [error] * len(batch)
        except Exception as error:
            if len(batch) == 1:
                return [error]
        # One of them cannot be written; the others shall not suffer for it.
        return [fate for each in batch for fate in self._commit([each])]

    def _written(self, batch: list[Waiting], task: asyncio.Future[list[Exception | None]]) -> None:
        self._under_way = None
        for (_, done), fate in zip(batch, task.result(), strict=True):
            if done.done():
                continue
            if fate is None:
                done.set_result(None)
            elif isinstance(fate, AgentgwError):
                done.set_exception(fate)
            else:
                told = self._failed()
                told.__cause__ = fate
                done.set_exception(told)
        if self._queue:
            self._wake()


def _fate(write: Write, connection: Connection) -> AgentgwError | None:
    try:
        write(connection)
    except AgentgwError as error:
        return error
    return None
