"""Counts by the hour: one bound for all workers, per source and together."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine

from agentgw.core.hourly import HourlyBound
from agentgw.errors import Unavailable
from agentgw.registry.hourly import Hourly
from agentgw.registry.schema import hourly, open_database

BOUND = HourlyBound(per_source=2, in_all=3)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = open_database(tmp_path / "state.db")
    yield made
    made.dispose()


def test_one_source_may_so_often_and_no_more_until_the_next_hour(engine: Engine) -> None:
    counts = Hourly(engine)
    assert [counts.take("x", "a", BOUND, 10) for _ in range(3)] == [0, 0, 3590]
    assert [counts.take("x", source, BOUND, 10) for source in "bc"] == [0, 3590]
    assert counts.take("x", "a", BOUND, 3600) == 0


def test_one_network_is_one_source_however_many_addresses_it_has(engine: Engine) -> None:
    counts, bound = Hourly(engine), HourlyBound(per_source=2, in_all=100)
    for address in ("2001:db8:1:2::1", "2001:db8:1:2:ffff::2"):
        assert counts.take("x", address, bound, 10) == 0
    assert counts.take("x", "2001:db8:1:2:3:4:5:6", bound, 10) > 0
    assert counts.take("x", "2001:db8:1:3::1", bound, 10) == 0
    for address in ("192.0.2.1", "::ffff:192.0.2.2", "", "unix"):
        assert counts.take("x", address, bound, 10) == 0


def test_kinds_do_not_count_for_each_other(engine: Engine) -> None:
    counts = Hourly(engine)
    assert [counts.take(kind, "a", BOUND, 10) for kind in "xxyy"] == [0] * 4


def test_workers_share_the_counts(engine: Engine, tmp_path: Path) -> None:
    others = [open_database(tmp_path / "state.db") for _ in range(3)]
    workers = [Hourly(each) for each in (engine, *others)]
    many = HourlyBound(per_source=10, in_all=100)
    with ThreadPoolExecutor(8) as threads:
        takes = [threads.submit(w.take, "x", "a", many, 10) for w in workers for _ in range(5)]
        waits = [take.result() for take in takes]
    assert sorted(waits) == [0] * 10 + [3590] * 10
    for each in others:
        each.dispose()


def test_past_hours_are_forgotten_and_refusals_add_no_rows(engine: Engine) -> None:
    counts = Hourly(engine)
    for number in range(20):
        counts.take("x", str(number), BOUND, 10)
    assert rows(engine) == 4
    counts.take("x", "a", BOUND, 7200)
    assert rows(engine) == 2


def test_nothing_is_let_through_that_cannot_be_counted(engine: Engine) -> None:
    hourly.drop(engine)
    with pytest.raises(Unavailable):
        Hourly(engine).take("x", "a", BOUND, 10)


def rows(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM hourly").scalar_one())
