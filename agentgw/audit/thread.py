"""The thread that writes the log, so that no fsync and no signature ever holds up the event loop."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

from agentgw.audit.writer import LogWriter
from agentgw.errors import AgentgwError, ConfigError

logger = logging.getLogger("agentgw.audit")

Report = Callable[..., None]


class WriterThread:
    """Runs a LogWriter: batches as they come, checkpoints when due, recovery until it works.

    `report(what, detail)` is called on the thread: opened, written, failed, recovered, ended. A checkpoint is
    due `checkpoint_seconds` after the first record it will cover, or at `checkpoint_records` of them.
    """

    def __init__(
        self,
        writer: LogWriter,
        report: Report,
        retry_seconds: float,
        checkpoint_seconds: float,
        checkpoint_records: int,
    ) -> None:
        self._writer = writer
        self._report = report
        self._retry_seconds = retry_seconds
        self._checkpoint_seconds = checkpoint_seconds
        self._checkpoint_records = checkpoint_records
        self._jobs: SimpleQueue[list[bytes] | None] = SimpleQueue()
        self._poisoned: str | None = None
        self._last_error = ""
        self._due: float | None = None
        self._thread = threading.Thread(target=self._run, name="audit-log", daemon=True)
        self.send = self._jobs.put

    def start(self) -> None:
        """Open the log, and take jobs until the job None."""
        self._thread.start()

    def _run(self) -> None:
        try:
            self._open()
            while self._step():
                pass
        except ConfigError as error:
            self._report("opened", error)
        except Exception:
            # Nobody is left to write: refuse visibly rather than let callers wait for ever.
            logger.exception("the audit log's writer ended")
            self._report("failed", "its writer ended; restart the gateway")
        finally:
            self._writer.close()
            self._report("ended")

    def _open(self) -> None:
        try:
            self._writer.open()
        except OSError as error:
            self._fail(error)
        self._report("opened")

    def _step(self) -> bool:
        """One batch, checkpoint or attempt to recover; False at the end."""
        try:
            job = self._jobs.get(timeout=self._timeout())
        except Empty:
            job = []
        if job is None:
            self._last_checkpoint()
            return False
        if self._poisoned is not None:
            self._recover()
        elif job:
            self._commit(job)
        if self._poisoned is None and self._is_due():
            self._checkpoint()
        return True

    def _timeout(self) -> float | None:
        if self._poisoned is not None:
            return self._retry_seconds
        return None if self._due is None else max(0.0, self._due - time.monotonic())

    def _commit(self, bodies: list[bytes]) -> None:
        try:
            first = self._writer.commit(bodies)
        except OSError as error:
            self._fail(error)
            return
        self._report("written", first)
        if self._due is None:
            self._due = time.monotonic() + self._checkpoint_seconds

    def _is_due(self) -> bool:
        if self._due is None:
            return False
        full = self._writer.uncovered >= self._checkpoint_records
        return full or time.monotonic() >= self._due

    def _checkpoint(self) -> None:
        try:
            self._writer.checkpoint()
            self._due = None
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        self._poisoned = error.strerror or type(error).__name__
        self._due = None
        self._report("failed", self._poisoned)

    def _recover(self) -> None:
        try:
            self._writer.recover(f"the log could not be written: {self._poisoned}")
        except (OSError, AgentgwError) as error:
            if str(error) != self._last_error:
                logger.warning("the audit log still cannot be written: %s", error)
            self._last_error = str(error)
            return
        self._last_error = ""
        self._poisoned = None
        self._report("recovered")

    def _last_checkpoint(self) -> None:
        try:
            if self._poisoned is None:
                self._writer.checkpoint()
        except OSError as error:
            logger.error("no last checkpoint could be written: %s", error.strerror)
