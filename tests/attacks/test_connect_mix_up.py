"""Threat: an answer of one authorization server, or of one browser, taken for that of another (RFC 9207).

An attacker who runs one authorization server must not get the code or token of another, and an attacker
with an account of their own must not have it connected for somebody else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.saas import House, query_of
from tests.saas import house as run_house


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with run_house(tmp_path_factory.mktemp("mix-up")) as running:
        yield running


@pytest.fixture(autouse=True)
def honest_again(house: House) -> Iterator[None]:
    yield
    house.saas.reset()
    house.connect("honest")
    assert house.notes("honest") == "the notes of honest"
    house.saas.revoke("honest")


def nothing_kept(house: House, user: str) -> None:
    assert house.refused(user)["data"]["reason"] == "connect_required"


@pytest.mark.parametrize(
    "change",
    [
        {"iss": "https://evil.example"},
        {"iss": "http://127.0.0.1:1"},
        {"iss": None},
        {"iss": ""},
        {"code": None},
        {"code": ""},
        {"error": "access_denied", "code": None},
    ],
    ids=str,
)
def test_an_answer_that_is_not_of_the_server_gone_to_redeems_nothing(
    house: House, change: dict[str, Any]
) -> None:
    def twist(answer: dict[str, Any]) -> None:
        answer.update(change)
        for name in [name for name, value in answer.items() if value is None]:
            del answer[name]

    house.saas.callback = twist
    before = len(house.saas.forms)
    answer = house.browser("alice").connect(house.link("alice"))
    assert answer.status_code == 502 and "Nothing was connected" in answer.text
    assert len(house.saas.forms) == before
    nothing_kept(house, "alice")


def test_an_answer_at_the_callback_of_another_server_redeems_nothing(house: House) -> None:
    """An authorization server that says no `iss` knows one redirect URI of ours, that of its own server."""
    browser = house.browser("alice")
    back = browser.sign_in_there(browser.agree(browser.open(house.link("alice"))), "alice")
    assert back.startswith(f"{house.gw.url}/oauth/connect/callback/saas?")
    before = len(house.saas.forms)
    answer = browser.open(back.replace("/callback/saas?", "/callback/hostile?"))
    assert answer.status_code == 403 and "Nothing was connected" in answer.text
    assert browser.open(back).status_code == 400
    assert len(house.saas.forms) == before
    nothing_kept(house, "alice")
    denied = [r for r in house.records("connect/finish") if r["decision"] == "deny"]
    assert denied[-1]["reason"] == "another_server"


def test_iss_twice_is_no_answer(house: House) -> None:
    browser = house.browser("alice")
    back = browser.sign_in_there(browser.agree(browser.open(house.link("alice"))), "alice")
    answer = browser.open(back + "&iss=https%3A%2F%2Fevil.example")
    assert answer.status_code == 502
    nothing_kept(house, "alice")


def test_the_code_goes_to_the_token_endpoint_that_was_known_at_departure(house: House) -> None:
    browser = house.browser("alice")
    back = browser.sign_in_there(browser.agree(browser.open(house.link("alice"))), "alice")
    house.saas.metadata = lambda document: document.update(
        token_endpoint="http://127.0.0.1:1/steal"
    )
    # Somebody else's visit makes the gateway read the changed metadata.
    house.browser("bob").open(f"{house.gw.url}/oauth/connect/saas")
    assert "is connected" in browser.open(back).text
    assert house.saas.forms[-1]["grant_type"] == "authorization_code"
    house.saas.reset()
    house.saas.revoke("alice")
    nothing_kept(house, "alice")


def test_an_attackers_answer_does_not_finish_in_the_victims_browser(house: House) -> None:
    attacker, victim = house.browser("mallory"), house.browser("alice")
    left = attacker.agree(attacker.open(f"{house.gw.url}/oauth/connect/saas"))
    back = attacker.sign_in_there(left, "mallory@saas")
    before = len(house.saas.forms)
    answer = victim.open(back)
    assert answer.status_code == 403 and "Nothing was connected" in answer.text
    # The state is spent, so that the attacker cannot finish it either.
    assert attacker.open(back).status_code == 400
    assert len(house.saas.forms) == before
    nothing_kept(house, "alice")
    denied = [r for r in house.records("connect/finish") if r["decision"] == "deny"]
    assert denied[-1]["reason"] in ("another_browser", "another_user")


def test_states_do_not_cross_two_flows_of_one_user_in_two_browsers(house: House) -> None:
    one, two = house.browser("alice"), house.browser("alice")
    back = one.sign_in_there(
        one.agree(one.open(f"{house.gw.url}/oauth/connect/saas")), "alice@saas"
    )
    two.agree(two.open(f"{house.gw.url}/oauth/connect/saas"))
    assert two.open(back).status_code == 403
    nothing_kept(house, "alice")


@pytest.mark.parametrize("state", ["", "x", "%00", "a" * 3000])
def test_a_state_nobody_gave_is_refused(house: House, state: str) -> None:
    url = f"{house.gw.url}/oauth/connect/callback/saas?code=c&state={state}"
    assert house.browser("alice").open(url).status_code == 400


def test_an_answer_works_once(house: House) -> None:
    browser = house.browser("nora")
    left = browser.agree(browser.open(house.link("nora")))
    assert query_of(left.headers["location"])["state"]
    back = browser.sign_in_there(left, "nora")
    assert browser.open(back).status_code == 200
    assert browser.open(back).status_code == 400
    assert house.notes("nora") == "the notes of nora"
