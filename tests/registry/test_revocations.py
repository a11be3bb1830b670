from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from agentgw.core.revocation import Revocation
from agentgw.errors import Unavailable
from agentgw.registry.ledger import Ledger
from agentgw.registry.revocations import CLAIM_SECONDS, Event, Revocations
from tests.registry.conftest import Open
from tests.registry.test_ledger import ISSUED

EVENT = Event("e-1", "revocation", 100.5, {"by": "cli"})


@pytest.fixture
def engine(another: Open, tmp_path: Path) -> Engine:
    return another(tmp_path / "state.db")


def family(engine: Engine) -> None:
    """root (a foreign token) → a → b → c, and a → d."""
    ledger = Ledger(engine)
    for parent, jti in (("root x", "a"), ("a", "b"), ("b", "c"), ("a", "d")):
        ledger.record(replace(ISSUED, jti=jti, parent=parent))


def keys(found: list[Revocation]) -> set[str]:
    return {change.key for change in found if not change.lifted}


@pytest.mark.parametrize(
    ("key", "heirs"),
    [("root x", {"a", "b", "c", "d"}), ("a", {"b", "c", "d"}), ("b", {"c"}), ("c", set())],
)
def test_revoking_a_token_kills_its_descendants_and_nobody_else(
    engine: Engine, key: str, heirs: set[str]
) -> None:
    family(engine)
    store = Revocations(engine)
    assert store.revoke_token(key, 700) == len(heirs)
    assert keys(store.since(0)) == {key} | heirs


def test_a_revocation_lasts_as_long_as_the_token_could(engine: Engine) -> None:
    family(engine)
    store = Revocations(engine)
    store.revoke_token("root x", 700)
    ends = {change.key: change.until for change in store.since(0)}
    assert ends == {"root x": 700, **dict.fromkeys("abcd", ISSUED.exp)}
    assert store.purge(ISSUED.exp + 1) == 4
    assert keys(store.since(0)) == {"root x"}


def test_revoking_again_changes_nothing(engine: Engine) -> None:
    family(engine)
    store = Revocations(engine)
    store.revoke_token("a", 700)
    before = store.since(0)
    assert store.revoke_token("a", 700) == 3
    assert store.since(0) == before


def test_changes_are_numbered_and_never_seen_twice(engine: Engine) -> None:
    store = Revocations(engine)
    store.revoke_party("agent", "coder")
    (first,) = store.since(0)
    assert store.lift("agent", "coder", now=100)
    (second,) = store.since(first.seq)
    assert second.lifted and second.seq > first.seq
    assert store.since(second.seq) == []
    store.purge(10**9)
    store.revoke_party("agent", "coder")
    (third,) = store.since(second.seq)
    assert not third.lifted


def test_only_what_is_revoked_can_be_lifted(engine: Engine) -> None:
    store = Revocations(engine)
    assert not store.lift("subject", "acme|alice", now=100)
    store.revoke_party("subject", "acme|alice", until=900)
    assert not store.lift("agent", "acme|alice", now=100)
    assert store.lift("subject", "acme|alice", now=100)
    assert not store.lift("subject", "acme|alice", now=100)


def test_one_worker_records_an_event_and_another_where_that_one_died(engine: Engine) -> None:
    store = Revocations(engine)
    family(engine)
    store.revoke_token("a", 700, EVENT)
    (claimed,) = store.claim(1000)
    assert claimed == replace(EVENT, detail={"by": "cli", "descendants": 3})
    assert Revocations(engine).claim(1000 + CLAIM_SECONDS) == []
    assert Revocations(engine).claim(1001 + CLAIM_SECONDS) == [claimed]
    store.recorded(claimed.event_id)
    assert store.claim(10**9) == []


def test_an_event_survives_what_undid_it(engine: Engine) -> None:
    store = Revocations(engine)
    store.revoke_party("agent", "coder", event=EVENT)
    store.lift("agent", "coder", now=1, event=replace(EVENT, event_id="e-2"))
    assert {event.event_id for event in store.claim(1000)} == {"e-1", "e-2"}


def test_notices_what_another_process_wrote(engine: Engine, another: Open, tmp_path: Path) -> None:
    store = Revocations(engine)
    assert store.moved() and not store.moved()
    other = another(tmp_path / "state.db")
    Revocations(other).revoke_party("agent", "coder")
    assert store.moved() and not store.moved()
    store.close()


def test_says_so_when_the_database_is_gone(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE revocations"))
        connection.execute(text("DROP TABLE unrecorded"))
    store = Revocations(engine)
    for call in (
        lambda: store.revoke_token("a", 1),
        lambda: store.revoke_party("agent", "a"),
        lambda: store.lift("agent", "a", 1),
        lambda: store.since(0),
        lambda: store.claim(1),
        lambda: store.recorded("e"),
        lambda: store.purge(1),
    ):
        with pytest.raises(Unavailable, match="state database"):
            call()
