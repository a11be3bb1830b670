"""A person at a browser: signs in at Keycloak, lets an agent in at the gateway, and stops it again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.test_consent import Program
from tests.harness import Issuer, wait_for
from tests.keycloak.conftest import settings
from tests.keycloak.server import Keycloak
from tests.login import App
from tests.people import Place, query_of
from tests.provider_house import House, house

pytestmark = [pytest.mark.keycloak, pytest.mark.browser]
IN_ID_TOKENS = {"id.token.claim": "true", "access.token.claim": "false"}


def mapper(name: str, kind: str, **config: str) -> dict[str, Any]:
    return {
        "name": name,
        "protocol": "openid-connect",
        "protocolMapper": kind,
        "config": {"claim.name": name, "jsonType.label": "String", **IN_ID_TOKENS, **config},
    }


@pytest.fixture(scope="module")
def gate(
    tmp_path_factory: pytest.TempPathFactory, keycloak: Keycloak, issuer: Issuer
) -> Iterator[House]:
    """Users sign in at Keycloak for planner, which may hand work to coder."""
    changes = settings(keycloak, issuer)
    changes["agents"]["planner"]["login"] = {"redirect_uris": ["http://127.0.0.1/callback"]}
    changes["login"] = {
        "issuer": "acme",
        "client_id": "sign-in",
        "client_secret": "sign-in-secret-of-the-gateway",
        "recheck": 1,
    }
    with house(tmp_path_factory.mktemp("login"), issuer, changes) as running:
        keycloak.administer(
            "POST",
            "/clients",
            {
                "clientId": "sign-in",
                "secret": changes["login"]["client_secret"],
                "redirectUris": [f"{running.gw.url}/oauth/callback"],
                "protocolMappers": [
                    mapper("groups", "oidc-group-membership-mapper", **{"full.path": "false"}),
                    mapper(
                        "preferred_username",
                        "oidc-usermodel-attribute-mapper",
                        **{"user.attribute": "username"},
                    ),
                ],
            },
        )
        yield running


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    context = chromium.new_context()
    yield context.new_page()
    context.close()


@pytest.fixture
def program() -> Iterator[Program]:
    running = Program()
    yield running
    running.close()


def program_of(gate: House, program: Program) -> App:
    return App(Place(gate.gw, None), "planner", program.redirect_uri, "planner-secret-for-tests")  # type: ignore[arg-type]


def sign_in(page: Page, app: App) -> None:
    page.goto(app.url())
    page.get_by_label("Username or email").fill("alice")
    page.locator("input[name=password]").fill("alice-password")
    page.locator("#kc-login").click()
    expect(page.get_by_role("heading", name="Let planner act for you?")).to_be_visible()


def test_the_story_of_one_login(
    keycloak: Keycloak, gate: House, page: Page, program: Program
) -> None:
    app = program_of(gate, program)
    sign_in(page, app)
    page.get_by_role("checkbox", name="close_ticket").uncheck()
    page.get_by_role("button", name="Allow").click()
    expect(page.get_by_text("done")).to_be_visible()
    answer = app.redeem(query_of(program.came_back[0])["code"])
    assert answer.status_code == 200, answer.text
    token = answer.json()["access_token"]
    assert sorted(gate.tools(token)) == ["tickets__list_tickets", "tickets__read_ticket"]
    alice = keycloak.administer("GET", "/users?username=alice")[0]["id"]
    seen = gate.seen(token)
    assert (seen["subject"], seen["agent"]) == (f"acme|{alice}", gate.agent("planner"))
    sub = gate.hand_over("planner", "coder", token)
    assert gate.seen(sub)["prior_agents"] == [gate.agent("planner")]
    page.goto(f"{gate.gw.url}/account")
    page.get_by_role("button", name="Stop").first.click()
    stopped = time.monotonic()
    for each in (token, sub):
        while gate.lets_in(each):
            assert time.monotonic() - stopped < 1, "still let in"
    refused = app.refresh(answer.json()["refresh_token"])
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")


def going_on(app: App, given: dict[str, Any]) -> httpx2.Response:
    """Refresh, once what Keycloak said has counted for long enough."""
    due = time.monotonic() + 1.1
    wait_for(lambda: time.monotonic() > due, "Keycloak to be asked again")
    return app.refresh(given["refresh_token"])


@pytest.fixture(params=[False, True], ids=["online", "offline"])
def alice(request: pytest.FixtureRequest, keycloak: Keycloak) -> Iterator[str]:
    """alice's id; with the role for offline access, or without, and then sessions are all there is."""
    found = str(keycloak.administer("GET", "/users?username=alice")[0]["id"])
    roles = f"/users/{found}/role-mappings/realm"
    role = [keycloak.administer("GET", "/roles/offline_access")]
    if request.param:
        keycloak.administer("POST", roles, role)
    yield found
    if request.param:
        keycloak.administer("DELETE", roles, role)


def test_a_user_who_left_a_group_or_was_disabled_at_keycloak_has_lost_it_at_the_next_refresh(
    keycloak: Keycloak, gate: House, page: Page, program: Program, alice: str
) -> None:
    app = program_of(gate, program)
    sign_in(page, app)
    page.get_by_role("button", name="Allow").click()
    expect(page.get_by_text("done")).to_be_visible()
    given = app.redeem(query_of(program.came_back[0])["code"]).json()
    assert "tickets__read_ticket" in gate.tools(given["access_token"])
    (group,) = [
        each["id"]
        for each in keycloak.administer("GET", f"/users/{alice}/groups")
        if each["name"] == "support"
    ]
    keycloak.administer("DELETE", f"/users/{alice}/groups/{group}")
    try:
        given = going_on(app, given).json()
        assert "tickets__read_ticket" not in gate.tools(given["access_token"])
    finally:
        keycloak.administer("PUT", f"/users/{alice}/groups/{group}")
    given = going_on(app, given).json()
    assert "tickets__read_ticket" in gate.tools(given["access_token"])
    keycloak.administer("PUT", f"/users/{alice}", {"enabled": False})
    try:
        refused = going_on(app, given)
        assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")
        assert "identity provider ended" in refused.json()["error_description"]
        wait_for(lambda: not gate.lets_in(given["access_token"]), "the token to be refused", 1.0)
        page.goto(f"{gate.gw.url}/account")
        assert page.url.startswith(keycloak.url), "the session at the gateway has ended"
    finally:
        keycloak.administer("PUT", f"/users/{alice}", {"enabled": True})
