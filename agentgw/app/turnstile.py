"""Unauthenticated refusals: counted by source and minute, one record each, which nothing waits for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container
from dataclasses import dataclass, field

from agentgw.audit import AuditLog
from agentgw.core.record import event_record, uuid7

MANY = 1000
"""Sources counted apart in a minute; the others share one count."""
NAMED = 16
"""Places and clients counted apart for one source; the others share one count each."""
OTHERS = "(others)"


@dataclass(slots=True)
class _Tally:
    count: int = 0
    at: Counter[str] = field(default_factory=Counter)
    unproven_clients: Counter[str] = field(default_factory=Counter)


class Turnstile:
    """Counts refusals and writes the counts of the past minutes. `clock` is Unix seconds.

    `known` holds the names of the configured agents: of all that strangers claim to be, only these get into
    the log, which so grows no faster for what they send, and holds no secret sent in the wrong field.
    """

    def __init__(
        self,
        audit: AuditLog,
        clock: Callable[[], float],
        random: Callable[[int], bytes],
        known: Callable[[], Container[str]] = tuple,
    ) -> None:
        self._audit = audit
        self._clock = clock
        self._random = random
        self._known = known
        self._counts: dict[tuple[str, int], _Tally] = {}

    def count(self, source: str | None, at: str, claimed: str | None = None) -> None:
        """One refusal, `at` a path of ours, of somebody who proved nothing and `claimed` to be a client."""
        minute = int(self._clock() // 60)
        key = (source or "unix", minute)
        if key not in self._counts and len(self._counts) >= MANY:
            key = ("others", minute)
        tally = self._counts.setdefault(key, _Tally())
        tally.count += 1
        _count(tally.at, at)
        if claimed is not None:
            _count(tally.unproven_clients, claimed if claimed in self._known() else OTHERS)

    def write(self, everything: bool = False) -> None:
        """Record the counts of minutes that are over; at the end, of all."""
        now = self._clock()
        current = int(now // 60)
        for source, minute in list(self._counts):
            if minute == current and not everything:
                continue
            tally = self._counts.pop((source, minute))
            identity = uuid7(int(now * 1000), self._random(10))
            self._audit.append_soon(
                event_record(
                    id=identity,
                    event_id=identity,
                    now=now,
                    method="unauthenticated",
                    source=source,
                    reason="invalid_token",
                    detail={
                        "count": tally.count,
                        "minute": minute * 60,
                        "at": dict(tally.at),
                        "unproven_clients": dict(tally.unproven_clients),
                    },
                )
            )


def _count(counter: Counter[str], name: str) -> None:
    counter[name if name in counter or len(counter) < NAMED else OTHERS] += 1
