from __future__ import annotations

import pytest

from agentgw.verify import MemoryReplay

pytestmark = pytest.mark.anyio


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_an_id_passes_once_and_is_forgotten_after_its_end() -> None:
    clock = Clock()
    store = MemoryReplay(clock=clock)
    assert await store.once("a", 160)
    assert not await store.once("a", 160)
    clock.now = 160
    assert not await store.once("a", 160)
    clock.now = 161
    assert await store.once("a", 260)


async def test_a_full_store_refuses_instead_of_forgetting() -> None:
    clock = Clock()
    store = MemoryReplay(clock=clock, size=2)
    assert await store.once("a", 150) and await store.once("b", 160)
    assert not await store.once("c", 160)
    clock.now = 151
    assert await store.once("c", 160)
    assert not await store.once("b", 160)
