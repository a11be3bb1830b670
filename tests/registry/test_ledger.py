from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from agentgw.core.consent import Consent
from agentgw.core.login_grants import RefreshToken
from agentgw.core.principal import Hop, Issued, Subject
from agentgw.errors import OAuthError, Unavailable
from agentgw.registry.ledger import Ledger
from agentgw.registry.refresh_tokens import RefreshTokens
from agentgw.registry.revocations import Revocations
from tests.registry.conftest import Open

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
def engine(another: Open, tmp_path: Path) -> Engine:
    return another(tmp_path / "state.db")


def test_finds_what_was_recorded_value_for_value(engine: Engine) -> None:
    Ledger(engine).record(ISSUED)
    assert Ledger(engine).find("j-1") == ISSUED
    assert Ledger(engine).find("j-2") is None


def test_a_record_survives_another_process(engine: Engine, another: Open, tmp_path: Path) -> None:
    Ledger(engine).record(ISSUED)
    engine.dispose()
    assert Ledger(another(tmp_path / "state.db")).find("j-1") == ISSUED


def test_what_the_user_consented_to_is_remembered(engine: Engine) -> None:
    consent = Consent(frozenset({"a/b"}), frozenset({"a"}), frozenset({"coder"}))
    Ledger(engine).record(replace(ISSUED, consent=consent))
    found = Ledger(engine).find("j-1")
    assert found is not None and found.consent == consent


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


def test_finds_the_family_of_a_token_whoever_issued_the_first(engine: Engine) -> None:
    ledger = Ledger(engine)
    for parent, jti in (("https://idp x", "a"), ("a", "b"), ("a", "c"), ("c", "d"), (None, "z")):
        ledger.record(replace(ISSUED, jti=jti, parent=parent))

    def jtis(found: list[Issued]) -> list[str]:
        return sorted(issued.jti for issued in found)

    assert jtis(ledger.descendants("a")) == ["b", "c", "d"]
    assert jtis(ledger.descendants("https://idp x")) == ["a", "b", "c", "d"]
    assert jtis(ledger.descendants("nobody")) == []


def test_no_child_is_recorded_once_its_parent_is_revoked(engine: Engine) -> None:
    ledger = Ledger(engine)
    Revocations(engine).revoke_token("j-0", 400)
    with pytest.raises(OAuthError, match="revoked"):
        ledger.record(replace(ISSUED, parent="j-0"))
    assert ledger.find("j-1") is None
    ledger.record(ISSUED)


def test_of_many_at_once_no_more_become_children_than_may(engine: Engine) -> None:
    ledger = Ledger(engine)
    ledger.record(ISSUED)

    def one_more(number: int) -> bool:
        child = replace(ISSUED, jti=f"c-{number}", parent="j-1")
        try:
            ledger.record(child, siblings=5)
        except OAuthError as error:
            assert "as often as it may be" in error.description
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(one_more, range(40))) == 5
    assert ledger.count_children("j-1") == 5
    ledger.record(replace(ISSUED, jti="j-2", parent="j-1"))


def test_a_database_of_an_earlier_version_is_given_what_it_lacks(
    another: Open, tmp_path: Path
) -> None:
    engine = another(tmp_path / "old.db")
    with engine.begin() as connection:
        connection.execute(text("DROP INDEX ix_ledger_subject"))
        connection.execute(text("ALTER TABLE ledger DROP COLUMN subject"))
    engine.dispose()
    for _ in range(2):
        ledger = Ledger(another(tmp_path / "old.db"))
    ledger.record(ISSUED)
    assert ledger.find(ISSUED.jti) == ISSUED


def test_says_so_when_the_database_is_gone(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE ledger"))
    ledger = Ledger(engine)
    for call in (
        lambda: ledger.record(ISSUED),
        lambda: ledger.find("j-1"),
        lambda: ledger.descendants("j-1"),
        lambda: ledger.purge(1),
    ):
        with pytest.raises(Unavailable, match="state database"):
            call()


def test_only_logins_that_somebody_took_up_or_still_may_are_listed(engine: Engine) -> None:
    ledger, tokens, now = Ledger(engine), RefreshTokens(engine), 10_000
    login = replace(ISSUED, kind="login", parent=None, iat=now - 5000, exp=now + 5000)

    def begun(jti: str, **changes: Any) -> None:
        ledger.record(replace(login, jti=jti, **changes))

    begun("taken-up", parent="sign-in:s-1")
    tokens.put("a", RefreshToken("taken-up", "desktop", now + 100))
    begun("used-now")
    ledger.record(replace(ISSUED, jti="t-1", parent="used-now", exp=now + 10))
    begun("fresh", iat=now - 599)
    begun("never-taken-up", iat=now - 600)
    begun("lain-unused")
    tokens.put("b", RefreshToken("lain-unused", "desktop", now))
    begun("rotated")
    tokens.put("c", RefreshToken("rotated", "desktop", now + 100))
    assert tokens.rotate("c", "d", RefreshToken("rotated", "desktop", now))
    begun("ended", exp=now)
    begun("revoked", iat=now)
    Revocations(engine).revoke_token("revoked", now + 100)
    found = {each.entry.jti: each.pending for each in ledger.logins(ISSUED.subject, now)}
    assert found == {"fresh": True, "taken-up": False, "used-now": False}
