from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from agentgw.core.principal import Hop, Issued, Subject
from agentgw.errors import Unavailable
from agentgw.registry.ledger import Ledger
from agentgw.registry.schema import open_database

ISSUED = Issued(
    jti="j-1",
    kind="hand-over",
    parent=None,
    subject=Subject("acme", "älice", "acme|älice"),
    groups=frozenset({"acme:group:support", "acme:group:b"}),
    chain=(
        Hop("https://gw/a2a/coder", "coder", "exchange"),
        Hop("client:acme|x", None, "act-claim"),
    ),
    audience="https://gw/a2a/tester",
    scopes=frozenset({"b", "a"}),
    txn="t-1",
    iat=100,
    exp=400,
    presenter="https://gw/a2a/coder",
    acr="phr",
    auth_time=50,
    resources=frozenset({"https://gw/mcp"}),
)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return open_database(tmp_path / "state.db")


def test_finds_what_was_recorded_value_for_value(engine: Engine) -> None:
    Ledger(engine).record(ISSUED)
    assert Ledger(engine).find("j-1") == ISSUED
    assert Ledger(engine).find("j-2") is None


def test_a_record_survives_another_process(engine: Engine, tmp_path: Path) -> None:
    Ledger(engine).record(ISSUED)
    engine.dispose()
    assert Ledger(open_database(tmp_path / "state.db")).find("j-1") == ISSUED


def test_one_jti_is_recorded_once(engine: Engine) -> None:
    Ledger(engine).record(ISSUED)
    with pytest.raises(Unavailable):
        Ledger(engine).record(replace(ISSUED, audience="https://gw/mcp"))
    assert Ledger(engine).find("j-1") == ISSUED


def test_purge_drops_what_has_expired(engine: Engine) -> None:
    ledger = Ledger(engine)
    ledger.record(ISSUED)
    ledger.record(replace(ISSUED, jti="j-2", exp=500))
    assert ledger.purge(400) == 0
    assert ledger.purge(401) == 1
    assert ledger.find("j-1") is None and ledger.find("j-2") is not None


def test_says_so_when_the_database_is_gone(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE ledger"))
    ledger = Ledger(engine)
    for call in (
        lambda: ledger.record(ISSUED),
        lambda: ledger.find("j-1"),
        lambda: ledger.purge(1),
    ):
        with pytest.raises(Unavailable, match="state database"):
            call()
