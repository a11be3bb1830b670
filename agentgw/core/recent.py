"""Memories of bounded size: what was used least lately makes room."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


def remember(memory: OrderedDict[K, V], key: K, value: V, size: int) -> None:
    """Keep `value` as the latest of at most `size`. Whoever looks one up moves it to the end."""
    memory[key] = value
    memory.move_to_end(key)
    while len(memory) > size:
        memory.popitem(last=False)
