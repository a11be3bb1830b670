from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from agentgw.core.one_time import Kept
from agentgw.errors import Unavailable
from agentgw.registry.one_time import OneTime
from tests.registry.conftest import Open

SECRET = "s" * 43


@pytest.fixture
def engine(another: Open, tmp_path: Path) -> Engine:
    return another(tmp_path / "state.db")


@pytest.fixture
def secrets(engine: Engine) -> OneTime:
    return OneTime(engine)


def test_a_secret_is_taken_once_and_told_from_one_that_never_was(secrets: OneTime) -> None:
    secrets.put("code", SECRET, {"login": "l-1"}, exp=100)
    assert secrets.take("code", SECRET, now=10) == Kept({"login": "l-1"}, 100, None)
    assert secrets.take("code", SECRET, now=20) == Kept({"login": "l-1"}, 100, used=10)
    assert secrets.take("code", "another", now=20) is None


def test_another_worker_finds_it_used(secrets: OneTime, another: Open, tmp_path: Path) -> None:
    secrets.put("code", SECRET, {}, exp=100)
    other = OneTime(another(tmp_path / "state.db"))
    assert other.take("code", SECRET, now=10) == Kept({}, 100, None)
    assert secrets.take("code", SECRET, now=11) == Kept({}, 100, used=10)


def test_a_secret_works_for_its_own_kind_only(secrets: OneTime) -> None:
    secrets.put("code", SECRET, {}, exp=100)
    assert secrets.take("device_code", SECRET, now=10) is None
    assert secrets.look("device_code", SECRET, now=10) is None


def test_a_secret_ends(secrets: OneTime) -> None:
    secrets.put("code", SECRET, {}, exp=100)
    assert secrets.look("code", SECRET, now=99.9) is not None
    assert secrets.look("code", SECRET, now=100) is None
    assert secrets.take("code", SECRET, now=100) is None


def test_looking_does_not_use_it_up(secrets: OneTime) -> None:
    secrets.put("request", SECRET, {"a": [1, "x", None]}, exp=100)
    assert secrets.look("request", SECRET, now=1) == Kept({"a": [1, "x", None]}, 100, None)
    assert secrets.take("request", SECRET, now=2) == Kept({"a": [1, "x", None]}, 100, None)
    assert secrets.look("request", SECRET, now=3) == Kept({"a": [1, "x", None]}, 100, used=2)


def test_of_many_at_once_one_takes_it(secrets: OneTime) -> None:
    secrets.put("code", SECRET, {}, exp=100)
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda _: secrets.take("code", SECRET, now=10), range(16)))
    assert [kept.used if kept else "gone" for kept in taken].count(None) == 1


def test_what_is_kept_is_replaced_as_it_was_seen_or_not_at_all(secrets: OneTime) -> None:
    secrets.put("device_code", SECRET, {"state": "pending", "at": 1}, exp=100)
    seen, approved = {"at": 1, "state": "pending"}, {"state": "approved"}
    assert secrets.replace("device_code", SECRET, {"state": "other"}, approved, now=5) is False
    assert secrets.replace("device_code", SECRET, seen, approved, now=5) is True
    assert secrets.replace("device_code", SECRET, seen, {"state": "denied"}, now=5) is False
    assert secrets.take("device_code", SECRET, now=6) == Kept(approved, 100, None)
    assert secrets.replace("device_code", SECRET, approved, seen, now=7) is False


def test_a_secret_with_a_payload_of_its_own_is_seen_once(secrets: OneTime) -> None:
    assert secrets.once("sign_in", SECRET, exp=100, now=1) is True
    assert secrets.once("sign_in", SECRET, exp=100, now=2) is False
    assert secrets.once("other", SECRET, exp=100, now=2) is True


def test_no_secret_is_in_the_database(secrets: OneTime, engine: Engine) -> None:
    secrets.put("code", SECRET, {}, exp=100)
    secrets.once("sign_in", SECRET, exp=100, now=1)
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT * FROM one_time")).all()
    assert len(rows) == 2
    assert SECRET not in repr(rows)


def test_one_secret_stands_for_one_thing(secrets: OneTime) -> None:
    secrets.put("code", SECRET, {"for": "alice"}, exp=100)
    with pytest.raises(Unavailable):
        secrets.put("code", SECRET, {"for": "bob"}, exp=100)
    assert secrets.take("code", SECRET, now=1) == Kept({"for": "alice"}, 100, None)


def test_purge_drops_what_has_ended(secrets: OneTime) -> None:
    secrets.put("code", SECRET, {}, exp=100)
    assert secrets.purge(100) == 0
    assert secrets.purge(101) == 1


def test_says_so_when_the_database_is_gone(secrets: OneTime, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE one_time"))
    for ask in (
        lambda: secrets.put("code", SECRET, {}, 100),
        lambda: secrets.look("code", SECRET, 1),
        lambda: secrets.take("code", SECRET, 1),
        lambda: secrets.replace("code", SECRET, {}, {}, 1),
        lambda: secrets.once("code", SECRET, 100, 1),
        lambda: secrets.purge(1),
    ):
        with pytest.raises(Unavailable, match="state database"):
            ask()
