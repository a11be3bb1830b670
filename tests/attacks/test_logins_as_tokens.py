"""The ledger's entry of a login is no token, even if something genuine names it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from agentgw.core.consent import Consent
from agentgw.core.exchange import ExchangeAgent, claims_of
from agentgw.core.exchange_request import ACCESS_TOKEN, GRANT_TYPE
from agentgw.core.principal import Issued
from agentgw.sts.keys import KeyRing
from agentgw.sts.mint import Minter
from tests.harness import allow_all, modern_headers, modern_message
from tests.login import agents, ask, attacked_place, web
from tests.people import Place

CONSENT = Consent(frozenset({"tickets/echo"}), frozenset({"notes"}), frozenset({"coder"}))
SECRETS = {name: f"{name}-secret-for-tests" for name in ("server", "coder", "planner")}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """`server` signs users in and may hand to `coder`, which can act by itself as well."""
    known = agents()
    known["coder"]["client_credentials"] = {}
    folder = tmp_path_factory.mktemp("logins")
    with attacked_place(folder, agents=known, grants=allow_all("tickets", "notes")) as running:
        yield running


def genuine(here: Place, login: Issued, heir: str | None = None) -> str:
    """A token under the gateway's own key whose jti is that of a login."""
    to = None
    if heir is not None:
        to = ExchangeAgent(heir, f"{here.url}/a2a/{heir}", False, 4, frozenset())
    claims = claims_of(login, here.url, to)
    return Minter(KeyRing(here.gateway.state), here.url).sign(claims).decode()


def post(here: Place, path: str, agent: str, **form: str) -> httpx2.Response:
    with web() as client:
        return client.post(f"{here.url}{path}", data=form, auth=(agent, SECRETS[agent]))


def exchange(here: Place, agent: str, token: str, target: str = "/mcp") -> httpx2.Response:
    return post(
        here, "/oauth/token", agent, grant_type=GRANT_TYPE, subject_token=token,
        subject_token_type=ACCESS_TOKEN, resource=f"{here.url}{target}",
    )  # fmt: skip


def introspect(here: Place, agent: str, token: str) -> dict[str, Any]:
    answer = post(here, "/oauth/introspect", agent, token=token)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def works(here: Place, token: str) -> bool:
    return ask(here, token, "tools/call", name="tickets__echo", arguments={}).status_code == 200


def test_it_opens_no_door(here: Place) -> None:
    login = here.let_in("server")
    assert works(here, here.token(login))
    answer = ask(here, genuine(here, login), "tools/list")
    assert (
        answer.status_code == 401 and 'error="invalid_token"' in answer.headers["www-authenticate"]
    )


@pytest.mark.parametrize("target", ["/mcp", "/mcp/tickets", "/a2a/coder"])
def test_it_is_not_exchanged(here: Place, target: str) -> None:
    login = here.let_in("server", consent=CONSENT)
    assert exchange(here, "server", here.token(login), target).status_code == 200
    refused = exchange(here, "server", genuine(here, login), target)
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_request")
    assert "not meant for this gateway" in refused.json()["error_description"]


def test_it_is_not_taken_up_as_a_hand_over(here: Place) -> None:
    coder = f"{here.url}/a2a/coder"
    login = here.let_in("server", audience=coder)
    refused = exchange(here, "coder", genuine(here, login, "coder"))
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_request")
    assert "not meant for this gateway" in refused.json()["error_description"]


def test_it_is_not_taken_up_in_the_request_that_would_use_it(here: Place) -> None:
    own = post(here, "/oauth/token", "coder", grant_type="client_credentials").json()
    message = modern_message("tools/call", {"name": "tickets__echo", "arguments": {}})

    def both(handed: str) -> httpx2.Response:
        headers = modern_headers(message, own["access_token"])
        with web() as client:
            return client.post(
                f"{here.url}/mcp",
                json=message,
                headers={**headers, "Agentgw-Subject-Token": handed},
            )

    login = here.let_in("server")
    handed = exchange(here, "server", here.token(login), "/a2a/coder").json()["access_token"]
    assert "result" in both(handed).json()
    for audience in (f"{here.url}/a2a/coder", f"{here.url}/mcp"):
        wrong = here.let_in("server", audience=audience)
        assert both(genuine(here, wrong, "coder")).status_code == 401


def test_it_is_not_active_to_anybody(here: Place) -> None:
    login = here.let_in("server")
    assert introspect(here, "server", here.token(login))["active"] is True
    for agent in SECRETS:
        assert introspect(here, agent, genuine(here, login)) == {"active": False}


def test_taking_it_back_takes_nothing_back(here: Place) -> None:
    login = here.let_in("server")
    token = here.token(login)
    for agent in SECRETS:
        answer = post(here, "/oauth/revoke", agent, token=genuine(here, login))
        assert answer.status_code == 200 and answer.content == b""
    assert works(here, token)
    assert post(here, "/oauth/revoke", "server", token=token).status_code == 200
    assert not works(here, token)


def test_agents_are_told_what_the_user_consented_to_through_every_exchange(here: Place) -> None:
    login = here.let_in("server", consent=CONSENT)
    token = here.token(login)
    shown = {"tools": ["tickets/echo"], "servers": ["notes"], "hand_to": ["coder"]}
    assert introspect(here, "server", token)["agentgw_consent"] == shown
    handed = exchange(here, "server", token, "/a2a/coder").json()["access_token"]
    assert introspect(here, "coder", handed)["agentgw_consent"] == shown
    taken = exchange(here, "coder", handed).json()["access_token"]
    assert introspect(here, "coder", taken)["agentgw_consent"] == shown
    assert introspect(here, "planner", taken) == {"active": False}


def test_a_token_that_no_user_consented_to_says_nothing_of_it(here: Place) -> None:
    found = introspect(here, "server", here.token(here.let_in("server")))
    assert found["active"] is True and "agentgw_consent" not in found
