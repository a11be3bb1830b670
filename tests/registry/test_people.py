"""Keys per subject: random, one for all workers, gone when forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from agentgw.registry.people import People
from agentgw.registry.schema import open_database


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = open_database(tmp_path / "agentgw.db")
    yield engine
    engine.dispose()


def test_a_subject_keeps_its_key_across_workers_and_nobody_shares_it(engine: Engine) -> None:
    first, second = People(engine), People(engine)
    key = first.key("acme", "alice")
    assert len(key) == 32
    assert second.key("acme", "alice") == first.key("acme", "alice") == key
    assert len({key, first.key("acme", "bob"), first.key("other", "alice")}) == 3


def test_the_worker_that_loses_the_race_takes_the_winners_key(engine: Engine) -> None:
    winner = People(engine)

    def lose(size: int) -> bytes:
        winner.key("acme", "alice")
        return b"l" * size

    assert People(engine, random=lose).key("acme", "alice") == winner.key("acme", "alice")


def test_forgetting_deletes_key_and_name(engine: Engine) -> None:
    people = People(engine)
    key = people.key("acme", "alice")
    people.set_name("acme", "alice", "Alice A.")
    assert people.name("acme", "alice") == "Alice A."
    assert people.forget("acme", "alice")
    assert not people.forget("acme", "alice")
    assert people.name("acme", "alice") is None
    assert people.key("acme", "alice") != key


def test_another_worker_drops_a_forgotten_key_once_its_copy_is_old(engine: Engine) -> None:
    now = 0.0
    people = People(engine, clock=lambda: now, max_age=60)
    key = people.key("acme", "alice")
    People(engine).forget("acme", "alice")
    assert people.key("acme", "alice") == key
    now = 60.0
    assert people.key("acme", "alice") != key


def test_a_key_outlives_its_place_in_the_cache(engine: Engine) -> None:
    people = People(engine, max_cached=1)
    key = people.key("acme", "alice")
    people.key("acme", "bob")
    assert people.key("acme", "alice") == key
