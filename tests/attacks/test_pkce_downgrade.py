"""PKCE left out, weakened, or taken away on the way (RFC 9700 section 4.8)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.login import App, attacked_place
from tests.people import Place, Visitor, query_of


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder: Path = tmp_path_factory.mktemp("login")
    with attacked_place(folder) as running:
        yield running


@pytest.mark.parametrize(
    "changes",
    [
        {"code_challenge": None},
        {"code_challenge": None, "code_challenge_method": None},
        {"code_challenge_method": None},
        {"code_challenge_method": "plain"},
        {"code_challenge_method": "s256"},
        {"code_challenge": "short"},
        {"code_challenge": "a" * 44},
        {"code_challenge": "a" * 42 + "="},
    ],
)
def test_a_request_without_a_challenge_by_s256_is_sent_back(
    here: Place, changes: dict[str, str | None]
) -> None:
    app = App(here)
    with Visitor() as alice:
        alice.open(app.url(**changes), until=app.redirect_uri)
        answer = query_of(alice.passed[-1])
    assert (answer["error"], answer["state"]) == ("invalid_request", app.state)
    assert (answer["iss"], "code" in answer) == (here.url, False)
    pushed = app.post("/oauth/par", {**app.query(), **changes})
    assert (pushed.status_code, pushed.json()["error"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    "verifier",
    [None, "", "a" * 42, "a" * 129, "ä" * 43, "a" * 42 + "+", "a" * 42 + " ", "a" * 43 + "\n"],
)
def test_a_verifier_that_is_none_redeems_nothing_and_uses_nothing_up(
    here: Place, verifier: str | None
) -> None:
    app = App(here)
    with Visitor() as alice:
        code = app.code(alice)
    refused = app.redeem(code, code_verifier=verifier)
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_request")
    assert app.redeem(code).status_code == 200


def test_the_challenge_is_no_verifier(here: Place) -> None:
    app = App(here)
    with Visitor() as alice:
        code = app.code(alice)
    refused = app.redeem(code, code_verifier=app.challenge)
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")
