"""Stolen, injected and replayed authorization codes (RFC 9700 sections 4.5 and 4.14)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.harness import wait_for
from tests.login import App, ask, attacked_place, login_of
from tests.people import Place, Visitor


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder: Path = tmp_path_factory.mktemp("login")
    with attacked_place(folder) as running:
        yield running


def test_a_stolen_code_is_worth_nothing_without_its_verifier(here: Place) -> None:
    app, thief = App(here), App(here)
    with Visitor() as alice:
        stolen = app.code(alice)
    assert _error(thief.redeem(stolen)) == "invalid_grant"
    assert _error(app.redeem(stolen)) == "invalid_grant"


def test_a_code_injected_into_another_login_of_the_same_client_fails(here: Place) -> None:
    mine, victims = App(here), App(here)
    with Visitor() as bob, Visitor() as alice:
        assert mine.code(bob, "bob")
        injected = victims.code(alice)
    assert _error(mine.redeem(injected)) == "invalid_grant"


def test_a_code_is_redeemed_by_its_own_client_only(here: Place) -> None:
    app = App(here)
    with Visitor() as alice:
        code = app.code(alice)
    assert _error(app.redeem(code, client_id="web")) == "invalid_grant"
    assert _error(app.redeem(code, client_id=None)) == "invalid_client"
    assert _error(app.redeem(code, client_id="nobody")) == "invalid_client"


def test_a_client_that_has_a_secret_must_show_it(here: Place) -> None:
    app = App(here, "server", "https://server.example.com/cb", "server-secret-for-tests")
    with Visitor() as alice:
        code = app.code(alice)
    assert _error(app.redeem(code, client_secret=None)) == "invalid_client"
    assert _error(app.redeem(code, client_secret="guessed")) == "invalid_client"
    assert app.redeem(code).status_code == 200


def test_a_code_comes_back_with_the_redirect_uri_it_was_sent_to(here: Place) -> None:
    app = App(here)
    with Visitor() as alice:
        code = app.code(alice)
    other = "http://127.0.0.1:45124/callback"
    assert _error(app.redeem(code, redirect_uri=other)) == "invalid_grant"


def test_a_code_used_twice_ends_the_login_and_all_that_came_of_it(here: Place) -> None:
    app = App(here)
    with Visitor() as alice:
        code = app.code(alice)
    given = app.redeem(code).json()
    assert ask(here, given["access_token"], "tools/list").status_code == 200
    assert _error(app.redeem(code)) == "invalid_grant"
    wait_for(
        lambda: ask(here, given["access_token"], "tools/list").status_code == 401,
        "the first token to be refused",
        1.0,
    )
    assert _error(app.refresh(given["refresh_token"])) == "invalid_grant"
    told = [each for each in here.gateway.records() if _ends(each, login_of(here, given))]
    assert [each["subject"] for each in told] == [{"iss": "laptop", "sub": "alice"}]
    assert "used before" in told[0]["detail"]["error"]


def test_of_many_who_redeem_one_code_at_once_none_keeps_a_token(here: Place) -> None:
    app = App(here)
    with Visitor() as alice:
        code = app.code(alice)
    answers: list[httpx2.Response] = []
    threads = [threading.Thread(target=lambda: answers.append(app.redeem(code))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    given = [answer.json() for answer in answers if answer.status_code == 200]
    assert len(given) <= 1
    for each in given:
        wait_for(
            lambda token=each["access_token"]: ask(here, token, "tools/list").status_code == 401,
            "the token to be refused",
            1.0,
        )


def test_a_code_is_no_refresh_token_and_no_access_token(here: Place) -> None:
    app = App(here)
    with Visitor() as alice:
        code = app.code(alice)
    assert _error(app.refresh(code)) == "invalid_grant"
    assert ask(here, code, "tools/list").status_code == 401
    assert app.redeem(code).status_code == 200


def test_a_stolen_code_is_on_record_and_a_made_up_one_only_counted(here: Place) -> None:
    app, thief = App(here), App(here)
    with Visitor() as alice:
        code = app.code(alice)
    before = len(_token_requests(here))
    for number in range(5):
        assert _error(thief.redeem(f"made-up-{number}")) == "invalid_grant"
        assert _error(thief.refresh(f"made-up-{number}")) == "invalid_grant"
    assert len(_token_requests(here)) == before
    assert _error(thief.redeem(code)) == "invalid_grant"
    told = _token_requests(here)[-1]
    assert (told["decision"], told["subject"]["sub"]) == ("deny", "alice")
    assert "code_verifier" in told["detail"]["error"]


def _token_requests(here: Place) -> list[dict[str, Any]]:
    return [each for each in here.gateway.records() if each.get("method") == "oauth/token"]


def _ends(record: dict[str, Any], login: str) -> bool:
    detail = record.get("detail") or {}
    return (detail.get("login"), detail.get("effect")) == (login, "revoked")


def _error(answer: httpx2.Response) -> str:
    assert answer.status_code in (400, 401), answer.text
    return str(answer.json()["error"])
