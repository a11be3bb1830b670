"""No code without the consent of this very user to this very client, whatever anybody consented to before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentgw.core.exchange_request import ACCESS_TOKEN, GRANT_TYPE
from tests.login import (
    AUTHORIZE,
    App,
    allow,
    ask,
    attacked_place,
    login_of,
    submit,
    tools_of,
    web,
)
from tests.people import Place, Visitor, query_of
from tests.sts.sts_under_test import claims_of


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder: Path = tmp_path_factory.mktemp("login")
    with attacked_place(folder) as running:
        yield running


def test_a_remembered_consent_is_asked_for_again(here: Place) -> None:
    with Visitor() as alice:
        App(here).tokens(alice)
        page = App(here).consent_page(alice)
        assert page.status == 200 and page.form(AUTHORIZE)
        assert not any(url.startswith("http://127.0.0.1:45123") for url in alice.passed)


def test_a_client_cannot_ask_for_a_code_without_a_page(here: Place) -> None:
    app = App(here)
    with Visitor() as alice:
        for expected in ("login_required", "consent_required"):
            alice.open(app.url(prompt="none"), until=app.redirect_uri)
            assert query_of(alice.passed[-1])["error"] == expected
            app.tokens(alice)


def test_the_consent_of_one_user_is_none_of_another(here: Place) -> None:
    with Visitor() as alice, Visitor() as bob:
        App(here).tokens(alice)
        app = App(here)
        page = app.consent_page(bob, "bob")
        token = app.redeem(query_of(allow(bob, page))["code"]).json()["access_token"]
    assert claims_of(token)["sub"] == "laptop|bob"


def test_the_consent_to_one_client_is_none_to_another(here: Place) -> None:
    with Visitor() as alice:
        App(here).tokens(alice)
        other = App(here, "web", "https://app.example.com/cb")
        page = other.consent_page(alice)
        assert "app.example.com" in page.words


def test_a_client_without_login_sends_nobody(here: Place) -> None:
    with Visitor() as alice:
        for client_id in ("planner", "coder", "nobody", "", "desktop ", "DESKTOP"):
            page = alice.open(App(here, client_id).url())
            assert page.status == 400 and page.url.startswith(here.url)


def test_a_public_client_gets_no_token_exchange(here: Place) -> None:
    with Visitor() as alice:
        token = App(here).tokens(alice)["access_token"]
    form = {
        "grant_type": GRANT_TYPE,
        "subject_token": token,
        "subject_token_type": ACCESS_TOKEN,
        "resource": f"{here.url}/mcp",
        "client_id": "desktop",
    }
    with web() as client:
        for changed in (
            {},
            {"resource": f"{here.url}/a2a/coder"},
            {"grant_type": "client_credentials"},
        ):
            refused = client.post(f"{here.url}/oauth/token", data={**form, **changed})
            assert (refused.status_code, refused.json()["error"]) == (401, "invalid_client")


def test_an_agent_the_user_did_not_consent_to_cannot_be_handed_the_work(here: Place) -> None:
    app = App(here, "server", "https://server.example.com/cb", "server-secret-for-tests")
    with Visitor() as alice:
        page = app.consent_page(alice)
        code = query_of(allow(alice, page, ("agent:coder",)))["code"]
    token = app.redeem(code).json()["access_token"]
    form = {
        "grant_type": GRANT_TYPE,
        "subject_token": token,
        "subject_token_type": ACCESS_TOKEN,
        "audience": f"{here.url}/a2a/coder",
    }
    with web() as client:
        refused = client.post(
            f"{here.url}/oauth/token", data=form, auth=("server", "server-secret-for-tests")
        )
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_target")


def test_a_login_itself_opens_nothing(here: Place) -> None:
    with Visitor() as alice:
        given = App(here).tokens(alice)
    login, token = login_of(here, given), given["access_token"]
    assert login != claims_of(token)["jti"]
    assert ask(here, login, "tools/list").status_code == 401
    assert tools_of(here, token)


def test_consent_to_one_agent_is_none_to_the_one_that_a_program_became(tmp_path: Path) -> None:
    uri = "http://127.0.0.1:45123/callback"
    known: dict[str, dict[str, Any]] = {name: {"login": {}} for name in ("notes-app", "operator")}
    known["notes-app"]["login"] = {"dynamic": True}
    with attacked_place(tmp_path, agents=known) as place, Visitor() as alice, web() as client:
        made = client.post(f"{place.url}/oauth/register", json={"redirect_uris": [uri]}).json()
        app = App(place, made["client_id"])
        page = app.consent_page(alice)
        assert "Let notes-app act for you?" in page.words
        begun = app.post("/oauth/device_authorization", {"client_id": app.client_id}).json()
        typed = alice.open(begun["verification_uri_complete"])
        device = alice.submit(typed, typed.form("/device"))
        known["operator"]["login"], known["notes-app"]["login"] = {"dynamic": True}, {}
        place.gateway.config["agents"] = known
        place.gateway.reload()
        answer = submit(alice, page, {**page.form(AUTHORIZE).fields, "answer": "allow"})
        assert answer.status_code == 400 and "another agent" in answer.text
        answered = alice.submit(device, device.form("/device/consent"), answer="allow")
        assert answered.status == 403 and "another agent" in answered.words
        assert "Let operator act for you?" in app.consent_page(alice).words
