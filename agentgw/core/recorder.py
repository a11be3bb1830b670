"""Records of what is decided and sends nothing upstream: numbered, timed, durable before what follows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Unpack

from agentgw.core.record import About, event_record, uuid7


class Recorder:
    """Writes such records. `append` makes one durable or raises Unavailable.

    `clock` gives Unix seconds, `random` so many random bytes.
    """

    def __init__(
        self,
        append: Callable[[dict[str, object]], Awaitable[object]],
        clock: Callable[[], float],
        random: Callable[[int], bytes],
    ) -> None:
        self._append = append
        self._clock = clock
        self._random = random

    def new_id(self, now: float | None = None) -> str:
        """A fresh event or record id, made at `now` (Unix seconds), else at this moment."""
        return uuid7(int((now or self._clock()) * 1000), self._random(10))

    def record(
        self,
        method: str,
        *,
        event_id: str | None = None,
        reason: str | None = None,
        **about: Unpack[About],
    ) -> Awaitable[object]:
        """Have one written; it is durable once what this gives was awaited, which may raise Unavailable.

        `event_id` is by default the record's own; the rest is as for `event_record`.
        """
        identity = self.new_id()
        return self._append(
            event_record(
                id=identity,
                event_id=event_id or identity,
                now=self._clock(),
                method=method,
                reason=reason,
                **about,
            )
        )
