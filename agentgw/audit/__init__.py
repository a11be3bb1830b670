"""What happened: the contract between the story and the log that keeps its records."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

__all__ = ["AuditLog"]


class AuditLog(Protocol):
    """One append-only log. Records are those of `agentgw.core.record`, written in the order given."""

    async def append(self, record: dict[str, object]) -> int:
        """Write `record` and return its `seq` once it is durable (fdatasync).

        Raises Unavailable where it cannot be made durable: then do nothing, and write no outcome for
        it either, since the record may be gone from the log.
        """
        ...

    def enqueue(self, record: dict[str, object]) -> Awaitable[int]:
        """The same, on its way to the disk at once; awaiting what it returns waits until it is there.

        Raises Unavailable at once, or when awaited.
        """
        ...

    def append_soon(self, record: dict[str, object]) -> None:
        """Queue `record` behind what was appended before; gates nothing, never raises.

        While the log cannot be written it waits in a bounded queue; what did not fit is counted in a
        later record.
        """
        ...

    async def close(self) -> None:
        """Write what is queued, sign a last checkpoint and give the directory free."""
        ...
