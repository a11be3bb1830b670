"""The vault: who may refresh, keys that change, and rows that open in their place only."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine, select, update

from agentgw.core.connected import Place
from agentgw.errors import Unavailable, Unreadable
from agentgw.registry import schema
from agentgw.registry.schema import open_database
from agentgw.registry.vault import Vault

PLACE = Place("acme", "alice", "https://as.example", "saas", "https://saas.example/mcp")
CONTENT: dict[str, Any] = {
    "access": "at-1", "refresh": "rt-1", "scopes": ["a"], "exp": 9, "client_id": "c",
}  # fmt: skip
KEYS = {"k1": bytes(range(32)), "k2": bytes(range(1, 33))}


class Clock:
    """Unix seconds, as the test says."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    opened = open_database(tmp_path / "agentgw.db")
    yield opened
    opened.dispose()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def vault(engine: Engine, clock: Clock) -> Vault:
    return Vault(engine, {"k1": KEYS["k1"]}, os.urandom, clock)


def version_of(vault: Vault) -> int:
    found = vault.get(PLACE)
    assert found is not None
    return found.version


def test_what_was_put_is_got_and_nothing_of_it_is_on_disk(vault: Vault, tmp_path: Path) -> None:
    assert vault.get(PLACE) is None
    vault.put(PLACE, CONTENT)
    found = vault.get(PLACE)
    assert found is not None and (found.access, found.refresh, found.exp) == ("at-1", "rt-1", 9)
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"at-1" not in written and b"rt-1" not in written


def test_one_of_many_may_refresh(vault: Vault) -> None:
    vault.put(PLACE, CONTENT)
    with ThreadPoolExecutor(8) as pool:
        version = version_of(vault)
        won = list(pool.map(lambda _: vault.claim(PLACE, version, 30.0), range(16)))
    assert won.count(True) == 1


def test_a_claim_ends_by_itself_and_can_be_given_back(vault: Vault, clock: Clock) -> None:
    vault.put(PLACE, CONTENT)
    version = version_of(vault)
    assert vault.claim(PLACE, version, 30.0)
    clock.now += 29
    assert not vault.claim(PLACE, version, 30.0)
    clock.now += 2
    assert vault.claim(PLACE, version, 30.0)
    vault.release(PLACE, version)
    assert vault.claim(PLACE, version, 30.0)


@pytest.mark.parametrize("dropped", [False, True])
def test_a_refresh_does_not_overwrite_what_was_connected_meanwhile(
    vault: Vault, dropped: bool
) -> None:
    vault.put(PLACE, CONTENT)
    version = version_of(vault)
    assert vault.claim(PLACE, version, 30.0)
    if dropped:
        assert vault.drop(PLACE)
    vault.put(PLACE, {**CONTENT, "access": "at-connected"})
    assert not vault.replace(PLACE, version, {**CONTENT, "access": "at-refreshed"})
    assert not vault.drop(PLACE, version)
    found = vault.get(PLACE)
    assert found is not None and found.access == "at-connected" and found.version != version


def test_what_an_earlier_key_sealed_opens_and_is_sealed_anew_under_the_next(
    engine: Engine, clock: Clock
) -> None:
    Vault(engine, {"k1": KEYS["k1"]}, os.urandom, clock).put(PLACE, CONTENT)
    both = Vault(engine, {"k2": KEYS["k2"], "k1": KEYS["k1"]}, os.urandom, clock)
    assert both.get(PLACE) is not None
    with pytest.raises(Unreadable):
        Vault(engine, {"k2": KEYS["k2"]}, os.urandom, clock).get(PLACE)
    assert both.replace(PLACE, version_of(both), CONTENT)
    assert Vault(engine, {"k2": KEYS["k2"]}, os.urandom, clock).get(PLACE) is not None


def test_what_a_later_worker_sealed_under_a_newer_key_opens(engine: Engine, clock: Clock) -> None:
    kept = {"k1": KEYS["k1"]}
    earlier = Vault(engine, dict(kept), os.urandom, clock, lambda: kept)
    kept = {"k2": KEYS["k2"], **kept}
    Vault(engine, kept, os.urandom, clock).put(PLACE, CONTENT)
    assert earlier.get(PLACE) is not None
    kept = {}
    Vault(engine, {"k3": bytes(32)}, os.urandom, clock).put(PLACE, CONTENT)
    with pytest.raises(Unreadable):
        earlier.get(PLACE)


def test_what_was_refreshed_is_kept_though_the_database_is_busy(
    engine: Engine, clock: Clock, tmp_path: Path
) -> None:
    file = tmp_path / "agentgw.db"
    impatient = create_engine(f"sqlite:///{file}", connect_args={"timeout": 0.5})
    vault = Vault(impatient, {"k1": KEYS["k1"]}, os.urandom, clock)
    vault.put(PLACE, CONTENT)
    version = version_of(vault)
    with closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable):
            vault.claim(PLACE, version, 30.0)
        released = threading.Timer(0.75, other.execute, ["ROLLBACK"])
        released.start()
        assert vault.replace(PLACE, version, {**CONTENT, "access": "at-refreshed"})
        released.join()
    found = vault.get(PLACE)
    assert found is not None and found.access == "at-refreshed"
    impatient.dispose()


def test_whose_account_was_connected_last_is_told(vault: Vault, clock: Clock) -> None:
    where = (PLACE.issuer, PLACE.server, PLACE.resource)
    assert vault.latest(*where) is None
    for user in ("alice", "bob"):
        clock.now += 1
        vault.put(PLACE._replace(user_sub=user), CONTENT)
    assert vault.latest(*where) == PLACE._replace(user_sub="bob")
    assert vault.latest("https://other.example", *where[1:]) is None


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(Place._fields), st.text(max_size=8))
def test_a_row_opens_in_its_own_place_only(
    vault: Vault, engine: Engine, field: str, value: str
) -> None:
    other = PLACE._replace(**{field: value})
    if other == PLACE or "\0" in value or not value.isprintable():
        return
    vault.put(PLACE, CONTENT)
    vault.put(other, {**CONTENT, "access": "at-other"})
    columns = [schema.vault.c[name] for name in PLACE._fields]
    with engine.begin() as connection:
        at = [column == value for column, value in zip(columns, PLACE, strict=True)]
        sealed = connection.execute(select(schema.vault.c.sealed).where(*at)).scalar_one()
        there = [column == value for column, value in zip(columns, other, strict=True)]
        connection.execute(update(schema.vault).where(*there).values(sealed=sealed))
    with pytest.raises(Unreadable):
        vault.get(other)
    assert vault.get(PLACE) is not None


def test_places_that_read_alike_when_joined_are_not_one(vault: Vault) -> None:
    one = PLACE._replace(user_iss="a", user_sub="b|c")
    two = PLACE._replace(user_iss="a|b", user_sub="c")
    vault.put(one, CONTENT)
    assert vault.get(two) is None
