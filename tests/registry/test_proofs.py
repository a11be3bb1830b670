"""Used DPoP proofs, as several workers see them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentgw.errors import Unavailable
from agentgw.registry.proofs import KEPT_SECONDS, UsedProofs

pytestmark = pytest.mark.anyio
NOW = 1_795_400_000


class Clock:
    now = float(NOW)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def workers(tmp_path: Path, clock: Clock) -> Iterator[tuple[UsedProofs, UsedProofs]]:
    both = (UsedProofs(tmp_path / "proofs.db", clock), UsedProofs(tmp_path / "proofs.db", clock))
    yield both
    for each in both:
        each.close()


async def test_a_proof_passes_once_at_whichever_worker(
    workers: tuple[UsedProofs, UsedProofs],
) -> None:
    first, second = workers
    assert await first.once(b"a", NOW)
    assert not await first.once(b"a", NOW)
    assert not await second.once(b"a", NOW)
    assert await second.once(b"b", NOW)
    assert not await first.once(b"b", NOW)


async def test_of_a_hundred_at_once_each_passes_at_one_worker_only(
    workers: tuple[UsedProofs, UsedProofs],
) -> None:
    marks = [b"%d" % number for number in range(100)]
    asked = [worker.once(mark, NOW) for mark in marks for worker in workers]
    assert sum(await asyncio.gather(*asked)) == 100


async def test_it_remembers_as_long_as_a_proof_may_be_judged_and_no_longer(
    workers: tuple[UsedProofs, UsedProofs], clock: Clock
) -> None:
    first, second = workers
    assert await first.once(b"a", NOW)
    clock.now = NOW + 300
    assert not await second.once(b"a", NOW)
    clock.now = NOW + KEPT_SECONDS + 1
    assert await first.once(b"b", NOW + KEPT_SECONDS)
    assert await first.once(b"a", NOW)


async def test_it_survives_its_workers(tmp_path: Path, clock: Clock) -> None:
    before = UsedProofs(tmp_path / "proofs.db", clock)
    assert await before.once(b"a", NOW)
    before.close()
    after = UsedProofs(tmp_path / "proofs.db", clock)
    assert not await after.once(b"a", NOW)
    after.close()


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "proofs.db").write_bytes(b"not a database, but long enough to look like one" * 99)
    with pytest.raises(Unavailable, match="may be deleted"):
        UsedProofs(tmp_path / "proofs.db")
    with pytest.raises(Unavailable, match="cannot be used"):
        UsedProofs(tmp_path / "nowhere" / "proofs.db")


async def test_a_store_that_cannot_be_written_accepts_nothing(tmp_path: Path, clock: Clock) -> None:
    store = UsedProofs(tmp_path / "proofs.db", clock)
    other = UsedProofs(tmp_path / "proofs.db", clock)
    other._database.execute("DROP TABLE used_proofs")
    with pytest.raises(Unavailable):
        await store.once(b"a", NOW)
    store.close()
    other.close()
