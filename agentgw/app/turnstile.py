"""Unauthenticated refusals: counted by source and minute, one record each, which nothing waits for."""

from __future__ import annotations

from collections.abc import Callable

from agentgw.audit import AuditLog
from agentgw.core.record import event_record, uuid7

MANY = 1000
"""Sources counted apart in a minute; the others share one count."""


class Turnstile:
    """Counts refusals and writes the counts of the past minutes. `clock` is Unix seconds."""

    def __init__(
        self, audit: AuditLog, clock: Callable[[], float], random: Callable[[int], bytes]
    ) -> None:
        self._audit = audit
        self._clock = clock
        self._random = random
        self._counts: dict[tuple[str, int], int] = {}

    def count(self, source: str | None) -> None:
        """One refusal of somebody without a valid token."""
        minute = int(self._clock() // 60)
        key = (source or "unix", minute)
        if key not in self._counts and len(self._counts) >= MANY:
            key = ("others", minute)
        self._counts[key] = self._counts.get(key, 0) + 1

    def write(self, everything: bool = False) -> None:
        """Record the counts of minutes that are over; at the end, of all."""
        now = self._clock()
        current = int(now // 60)
        for source, minute in list(self._counts):
            if minute == current and not everything:
                continue
            count = self._counts.pop((source, minute))
            identity = uuid7(int(now * 1000), self._random(10))
            self._audit.append_soon(
                event_record(
                    id=identity,
                    event_id=identity,
                    now=now,
                    method="unauthenticated",
                    source=source,
                    decision="deny",
                    reason="invalid_token",
                    detail={"count": count, "minute": minute * 60},
                )
            )
