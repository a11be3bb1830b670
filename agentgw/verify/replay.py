"""Each per-call token opens the door once."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from typing import Protocol


class ReplayStore(Protocol):
    """Where used token ids are kept; share one between all processes behind one audience."""

    async def once(self, jti: str, exp: int) -> bool:
        """True the first time `jti` is seen, False ever after, until `exp` (Unix seconds) is past.

        Raise any exception where the store cannot answer: the call is then refused.
        """


class MemoryReplay:
    """A ReplayStore for one process. `clock` gives Unix seconds; `size` bounds what is kept.

    It forgets on restart: whoever uses it must refuse tokens issued before `since`, as CallVerifier
    does. A token used within the clock leeway before a restart may pass once more.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time, size: int = 1_000_000) -> None:
        self._clock = clock
        self.since = clock()
        self._size = size
        self._seen: set[str] = set()
        self._by_exp: list[tuple[int, str]] = []

    async def once(self, jti: str, exp: int) -> bool:
        """See ReplayStore. A full store refuses: forgetting an id would let it in twice."""
        now = self._clock()
        while self._by_exp and self._by_exp[0][0] < now:
            self._seen.discard(heapq.heappop(self._by_exp)[1])
        if jti in self._seen or len(self._seen) >= self._size:
            return False
        self._seen.add(jti)
        heapq.heappush(self._by_exp, (exp, jti))
        return True
