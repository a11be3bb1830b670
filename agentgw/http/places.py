"""Places for requests under way, so that those who prove nothing take none from those who do."""

from __future__ import annotations

from collections import Counter


class Places:
    """At most `most` requests at a time, and `of_one` of any one source."""

    def __init__(self, most: int, of_one: int) -> None:
        self._free = most
        self._of_one = of_one
        self._held: Counter[str] = Counter()

    def take(self, source: str) -> bool:
        """Whether there was a place; who got one must give it back."""
        if self._free <= 0 or self._held[source] >= self._of_one:
            return False
        self._free -= 1
        self._held[source] += 1
        return True

    def give_back(self, source: str) -> None:
        """The request is done."""
        self._free += 1
        self._held[source] -= 1
        if not self._held[source]:
            del self._held[source]
