"""How often something may happen by the hour: a bound per source, and one for all."""

from __future__ import annotations

from typing import NamedTuple

HOUR = 3600


class HourlyBound(NamedTuple):
    """How often one source may, and how often all may together."""

    per_source: int
    in_all: int

    def is_reached(self, of_source: int, of_all: int) -> bool:
        """Whether no more may happen in the hour under way, of which these many are counted."""
        return of_source >= self.per_source or of_all >= self.in_all


def hour_of(now: float) -> int:
    """The hour under way at a Unix time."""
    return int(now) // HOUR


def until_next(now: float) -> int:
    """Seconds until the next hour, at least one."""
    return HOUR - int(now) % HOUR
