"""Refresh tokens in the state database: one works once, whoever else tries at the same time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from agentgw.core.consent import Consent
from agentgw.core.login_grants import RefreshToken
from agentgw.core.offer import Choice
from agentgw.core.principal import Subject
from agentgw.errors import Unavailable
from agentgw.registry.consents import KEPT_SECONDS, Consents
from agentgw.registry.refresh_tokens import RefreshTokens
from agentgw.registry.schema import open_database

TOKEN = RefreshToken("login-1", "desktop", 2000, jkt="k1")
ALICE, BOB = (Subject("acme", name, f"acme|{name}") for name in ("alice", "bob"))


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    found = open_database(tmp_path / "state.db")
    yield found
    found.dispose()


def test_a_token_is_found_and_replaced_once(engine: Engine) -> None:
    tokens = RefreshTokens(engine)
    tokens.put("one", TOKEN)
    assert tokens.look("one") == TOKEN
    assert tokens.look("two") is None
    assert tokens.rotate("one", "two", TOKEN)
    found = tokens.look("one")
    assert found is not None and found.used
    assert tokens.look("two") == TOKEN
    assert not tokens.rotate("one", "three", TOKEN)
    assert tokens.look("three") is None
    assert not tokens.rotate("never", "four", TOKEN)
    with pytest.raises(Unavailable):
        tokens.put("two", TOKEN)


def test_of_many_who_rotate_one_token_one_wins(engine: Engine) -> None:
    tokens = RefreshTokens(engine)
    tokens.put("one", TOKEN)
    won: list[bool] = []
    threads = [
        threading.Thread(
            target=lambda name=f"next-{n}": won.append(tokens.rotate("one", name, TOKEN))
        )
        for n in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 15 + [True]


def test_no_secret_is_in_the_database_and_what_ended_is_dropped(
    engine: Engine, tmp_path: Path
) -> None:
    tokens = RefreshTokens(engine)
    tokens.put("a-secret-of-many-bits", TOKEN)
    whole = b"".join(path.read_bytes() for path in tmp_path.glob("state.db*"))
    assert b"a-secret-of-many-bits" not in whole
    assert tokens.purge(1999) == 0
    assert tokens.purge(2001) == 1
    assert tokens.look("a-secret-of-many-bits") is None


def test_a_choice_is_remembered_per_user_client_agent_and_resource(engine: Engine) -> None:
    consents = Consents(engine)
    first = Choice(Consent(frozenset({"t/a"}), frozenset(), frozenset()), frozenset(), 3600)
    second = Choice(Consent(frozenset(), frozenset({"t"}), frozenset({"b"})), frozenset(), 60)
    consents.remember(ALICE, "desktop", "desktop", "/mcp", first, 100)
    consents.remember(ALICE, "desktop", "desktop", "/mcp", second, 200)
    assert consents.last(ALICE, "desktop", "desktop", "/mcp") == (second.consent, 60)
    assert consents.last(BOB, "desktop", "desktop", "/mcp") is None
    assert consents.last(ALICE, "web", "desktop", "/mcp") is None
    assert consents.last(ALICE, "desktop", "web", "/mcp") is None
    assert consents.last(ALICE, "desktop", "desktop", "/mcp/t") is None
    assert consents.purge(200 + KEPT_SECONDS) == 0
    assert consents.purge(201 + KEPT_SECONDS) == 1
