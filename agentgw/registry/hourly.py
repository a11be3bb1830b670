"""What happened in the hour under way, counted for all workers."""

from __future__ import annotations

from collections import OrderedDict

from sqlalchemy import Engine, delete, select
from sqlalchemy.dialects.sqlite import insert as upsert

from agentgw.core.hourly import HourlyBound, hour_of, until_next
from agentgw.core.recent import remember
from agentgw.core.source import one_source
from agentgw.registry.schema import hourly, told

ALL = "*"
"""Stands for every source together: no address reads so."""
REFUSED = 1_000


class Hourly:
    """Counts over the state database, by `one_source`. Calls block on the disk; times are Unix seconds.

    A source that was refused is remembered here, so that a flood of it does not reach the database.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._refused: OrderedDict[tuple[str, str], int] = OrderedDict()

    def take(self, kind: str, source: str, bound: HourlyBound, now: float) -> int:
        """Count one more of a kind; 0, or the seconds to wait where the bound is reached.

        Raises Unavailable, and then nothing was counted.
        """
        hour, source = hour_of(now), one_source(source)
        if self._refused.get((kind, source)) == hour:
            return until_next(now)
        this = (hourly.c.kind == kind, hourly.c.hour == hour)
        query = select(hourly.c.source, hourly.c.count).where(
            *this, hourly.c.source.in_((source, ALL))
        )
        more = upsert(hourly).values(
            [{"kind": kind, "source": each, "hour": hour, "count": 1} for each in (source, ALL)]
        )
        with told("hourly"), self._engine.begin() as connection:
            # The write comes first: it locks the database, so nobody comes in between.
            connection.execute(delete(hourly).where(hourly.c.hour < hour))
            counts = {row.source: row[1] for row in connection.execute(query)}
            reached = bound.is_reached(counts.get(source, 0), counts.get(ALL, 0))
            if not reached:
                connection.execute(
                    more.on_conflict_do_update(
                        index_elements=["kind", "source", "hour"],
                        set_={"count": hourly.c.count + 1},
                    )
                )
        if not reached:
            return 0
        remember(self._refused, (kind, source), hour, REFUSED)
        return until_next(now)
