"""File operations that fail on demand."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from agentgw.audit.files import Files, OsFiles

_T = TypeVar("_T")
Operation = Literal["open", "write", "fdatasync", "truncate", "replace", "sync_directory"]


@dataclass(frozen=True, slots=True)
class Fault:
    """Raise OSError(`errno`) on `operation`, `before` or `after` it took effect, `times` times.

    A write that fails `partly` has written half of its bytes.
    """

    operation: Operation
    errno: int
    when: Literal["before", "partly", "after"] = "before"
    times: int = 1


class FaultyFiles:
    """Real files that fail as told.

    `inject` may be called from any thread; faults are used up in the order given. A fault stays as
    long as `mend` has not been called where its `times` is negative.
    """

    def __init__(self, files: Files | None = None) -> None:
        self._files = files or OsFiles()
        self._faults: list[tuple[Fault, int]] = []
        self.calls: dict[str, int] = {}

    def inject(self, fault: Fault) -> None:
        """Arm one fault."""
        self._faults.append((fault, fault.times))

    def mend(self) -> None:
        """Forget every fault."""
        self._faults.clear()

    def open(self, path: Path, flags: int) -> int:
        return self._do("open", lambda: self._files.open(path, flags))

    def write(self, fd: int, data: bytes) -> int:
        return self._do(
            "write",
            lambda: self._files.write(fd, data),
            lambda: self._files.write(fd, data[: len(data) // 2]),
        )

    def fdatasync(self, fd: int) -> None:
        self._do("fdatasync", lambda: self._files.fdatasync(fd))

    def truncate(self, fd: int, size: int) -> None:
        self._do("truncate", lambda: self._files.truncate(fd, size))

    def replace(self, source: Path, target: Path) -> None:
        self._do("replace", lambda: self._files.replace(source, target))

    def sync_directory(self, path: Path) -> None:
        self._do("sync_directory", lambda: self._files.sync_directory(path))

    def _do(
        self,
        operation: Operation,
        act: Callable[[], _T],
        act_partly: Callable[[], _T] | None = None,
    ) -> _T:
        self.calls[operation] = self.calls.get(operation, 0) + 1
        fault = self._take(operation)
        if fault is None:
            return act()
        if fault.when == "after":
            act()
        elif fault.when == "partly" and act_partly is not None:
            act_partly()
        raise OSError(fault.errno, os.strerror(fault.errno))

    def _take(self, operation: Operation) -> Fault | None:
        for place, (fault, left) in enumerate(self._faults):
            if fault.operation == operation:
                if left == 1:
                    del self._faults[place]
                else:
                    self._faults[place] = (fault, left - 1)
                return fault
        return None
