"""Stolen refresh tokens (RFC 9700 section 4.14): each works once, for its own client, within the login."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from agentgw.registry.revocations import Revocations
from tests.dpop import Prover
from tests.harness import wait_for
from tests.login import App, allow, ask, attacked_place, web
from tests.people import Place, Visitor, query_of
from tests.sts.sts_under_test import claims_of


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder: Path = tmp_path_factory.mktemp("login")
    with attacked_place(folder) as running:
        yield running


def test_a_thief_who_refreshes_ends_the_login_for_both(here: Place) -> None:
    app = App(here)
    with Visitor() as alice:
        given = app.tokens(alice)
    thief = app.refresh(given["refresh_token"]).json()
    assert ask(here, thief["access_token"], "tools/list").status_code == 200
    assert _error(app.refresh(given["refresh_token"])) == "invalid_grant"
    for token in (given["access_token"], thief["access_token"]):
        wait_for(
            lambda token=token: ask(here, token, "tools/list").status_code == 401,
            "the token to be refused",
            1.0,
        )
    assert _error(app.refresh(thief["refresh_token"])) == "invalid_grant"


def test_of_many_who_refresh_at_once_none_keeps_a_token(here: Place) -> None:
    app = App(here)
    with Visitor() as alice:
        given = app.tokens(alice)
    answers: list[httpx2.Response] = []
    threads = [
        threading.Thread(target=lambda: answers.append(app.refresh(given["refresh_token"])))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = [answer.json() for answer in answers if answer.status_code == 200]
    assert len(won) <= 1
    for each in [given, *won]:
        wait_for(
            lambda token=each["access_token"]: ask(here, token, "tools/list").status_code == 401,
            "the token to be refused",
            1.0,
        )


def test_a_refresh_token_is_good_for_its_own_client_only(here: Place) -> None:
    app = App(here)
    with Visitor() as alice:
        given = app.tokens(alice)
    token = given["refresh_token"]
    assert _error(app.refresh(token, client_id="web")) == "invalid_grant"
    secret = {"client_id": "server", "client_secret": "server-secret-for-tests"}
    assert _error(app.refresh(token, **secret)) == "invalid_grant"
    assert _error(app.refresh(token, client_id=None)) == "invalid_client"
    assert app.refresh(token).status_code == 200


def test_a_refresh_token_gives_no_more_than_the_user_allowed(here: Place) -> None:
    app = App(here)
    with Visitor() as alice:
        page = app.consent_page(alice, resource=f"{here.url}/mcp/tickets")

        given = app.redeem(query_of(allow(alice, page))["code"]).json()
    token = given["refresh_token"]
    assert claims_of(given["access_token"])["aud"] == f"{here.url}/mcp/tickets"
    assert _error(app.refresh(token, scope="tickets.admin")) == "invalid_scope"
    for resource in ("/mcp", "/mcp/notes", "/mcp/tickets/", "/a2a/coder"):
        assert _error(app.refresh(token, resource=here.url + resource)) == "invalid_target"
    assert ask(here, given["access_token"], "tools/list", "/mcp/notes").status_code == 401
    assert app.refresh(token, resource=f"{here.url}/mcp/tickets").status_code == 200


def test_a_login_that_was_ended_is_refreshed_no_more(here: Place) -> None:
    app = App(here)
    with Visitor() as alice:
        given = app.tokens(alice)
        page = alice.open(f"{here.url}/account")
        stop = next(form for form in page.forms if form.action.endswith("/account/stop"))
        alice.submit(page, stop, login="all")
    assert _error(app.refresh(given["refresh_token"])) == "invalid_grant"


def test_a_blocked_user_is_refreshed_no_more(here: Place) -> None:
    app = App(here)
    with Visitor() as bob:
        given = app.tokens(bob, "bob")
    engine = here.engine()
    store = Revocations(engine)
    store.revoke_party("subject", "laptop|bob")
    wait_for(
        lambda: ask(here, given["access_token"], "tools/list").json().get("error") is not None,
        "bob to be blocked",
    )
    assert _error(app.refresh(given["refresh_token"])) == "invalid_grant"
    store.lift("subject", "laptop|bob", 0)
    store.close()
    engine.dispose()


def test_a_refresh_token_is_no_access_token_and_not_kept_in_clear(here: Place) -> None:
    app = App(here)
    with Visitor() as alice:
        given = app.tokens(alice)
    assert ask(here, given["refresh_token"], "tools/list").status_code == 401
    whole = b"".join(path.read_bytes() for path in here.gateway.state.glob("agentgw.db*"))
    assert given["refresh_token"].encode() not in whole


def test_a_client_takes_its_own_login_back_and_no_other_does(here: Place) -> None:
    app = App(here)
    with Visitor() as alice:
        given = app.tokens(alice)
        kept = App(here).tokens(alice)
    revoke = {"client_id": "desktop", "token": given["refresh_token"]}
    for changed in (
        {"client_id": "web"},
        {"client_id": "web", "token": given["access_token"]},
        {"client_id": "server", "client_secret": "server-secret-for-tests"},
        {
            "client_id": "coder",
            "client_secret": "coder-secret-for-tests",
            "token": given["access_token"],
        },
        {"client_id": "nobody"},
    ):
        refused = app.post("/oauth/revoke", {**revoke, **changed})
        assert _error(refused) in ("unauthorized_client", "invalid_client")
    assert ask(here, given["access_token"], "tools/list").status_code == 200
    assert app.post("/oauth/revoke", {**revoke}).status_code == 200
    assert ask(here, given["access_token"], "tools/list").status_code == 401
    assert _error(app.refresh(given["refresh_token"])) == "invalid_grant"
    one: dict[str, str | None] = {"client_id": "desktop", "token": kept["access_token"]}
    assert app.post("/oauth/revoke", one).status_code == 200
    assert ask(here, kept["access_token"], "tools/list").status_code == 401
    assert app.refresh(kept["refresh_token"]).status_code == 200
    told = [each for each in here.gateway.records() if each.get("method") == "oauth/revoke"]
    assert {each["decision"] for each in told} == {"allow", "deny"}
    assert {each["subject"]["sub"] for each in told} == {"alice"}


def _error(answer: httpx2.Response) -> str:
    assert answer.status_code in (400, 401), answer.text
    return str(answer.json()["error"])


def test_a_login_with_a_dpop_key_gives_nothing_without_it(here: Place) -> None:
    app, holder, thief = App(here), Prover(), Prover()
    with Visitor() as alice:
        page = app.consent_page(alice, dpop_jkt=holder.jkt)
        code = query_of(allow(alice, page))["code"]
    url = f"{here.url}/oauth/token"
    form = {
        "grant_type": "authorization_code",
        "client_id": "desktop",
        "code": code,
        "code_verifier": app.verifier,
    }
    with web() as client:
        given = client.post(url, data=form, headers={"DPoP": holder.proof("POST", url)}).json()
        assert given["token_type"] == "DPoP"
        again = {
            "grant_type": "refresh_token",
            "client_id": "desktop",
            "refresh_token": given["refresh_token"],
        }
        assert _error(client.post(url, data=again)) == "invalid_grant"
        stolen = client.post(url, data=again, headers={"DPoP": thief.proof("POST", url)})
        assert _error(stolen) == "invalid_grant"
        own = client.post(url, data=again, headers={"DPoP": holder.proof("POST", url)})
        assert own.status_code == 200 and own.json()["token_type"] == "DPoP"
    assert claims_of(own.json()["access_token"])["cnf"] == holder.cnf


def test_a_code_for_a_dpop_key_is_redeemed_by_no_other(here: Place) -> None:
    app, holder, thief = App(here), Prover(), Prover()
    url = f"{here.url}/oauth/token"
    for headers in ({}, {"DPoP": thief.proof("POST", url)}):
        with Visitor() as alice, web() as client:
            page = app.consent_page(alice, dpop_jkt=holder.jkt)
            form = {
                "grant_type": "authorization_code",
                "client_id": "desktop",
                "code": query_of(allow(alice, page))["code"],
                "code_verifier": app.verifier,
            }
            assert _error(client.post(url, data=form, headers=headers)) == "invalid_grant"
