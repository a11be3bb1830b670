from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from agentgw.errors import Unavailable
from agentgw.registry.assertions import UsedAssertions
from tests.registry.conftest import Open


@pytest.fixture
def engine(another: Open, tmp_path: Path) -> Engine:
    return another(tmp_path / "state.db")


def test_a_jti_of_a_client_passes_once(engine: Engine, another: Open, tmp_path: Path) -> None:
    used = UsedAssertions(engine)
    assert used.once("coder", "a", 100) is True
    assert used.once("coder", "a", 100) is False
    assert used.once("coder", "a", 999) is False
    assert used.once("planner", "a", 100) is True
    assert UsedAssertions(another(tmp_path / "state.db")).once("coder", "a", 100) is False


def test_of_many_at_once_one_passes(engine: Engine) -> None:
    used = UsedAssertions(engine)
    with ThreadPoolExecutor(8) as pool:
        passed = list(pool.map(lambda _: used.once("coder", "a", 100), range(16)))
    assert passed.count(True) == 1


def test_purge_drops_what_has_expired(engine: Engine) -> None:
    used = UsedAssertions(engine)
    used.once("coder", "a", 100)
    assert used.purge(100) == 0
    assert used.purge(101) == 1


def test_says_so_when_the_database_is_gone(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE used_assertions"))
    with pytest.raises(Unavailable, match="state database"):
        UsedAssertions(engine).once("coder", "a", 100)
    with pytest.raises(Unavailable, match="state database"):
        UsedAssertions(engine).purge(100)
