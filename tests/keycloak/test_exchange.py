"""Keycloak's own token exchange (RFC 8693, "standard", V2) makes the token that planner brings."""

from __future__ import annotations

import jwt
import pytest

from tests.keycloak.server import Keycloak
from tests.provider_house import ACCESS_TOKEN, EXCHANGE, House

pytestmark = pytest.mark.keycloak


def exchange(keycloak: Keycloak, client: str, token: str, **form: str) -> dict[str, object]:
    asked = {"grant_type": EXCHANGE, "subject_token": token, "subject_token_type": ACCESS_TOKEN}
    answer: dict[str, object] = keycloak.answer(client, **asked, **form).json()
    return answer


def test_a_sign_in_elsewhere_becomes_a_token_for_the_gateway_at_keycloak(
    keycloak: Keycloak, house: House
) -> None:
    signed_in = keycloak.token_of("alice", "portal")
    assert "audience" in house.why(house.call(signed_in))
    got = exchange(keycloak, "planner", signed_in, audience="agentgw", scope="tickets.read")
    token = str(got["access_token"])
    seen = house.seen(token)
    assert seen["subject"] == house.seen(keycloak.token_of("alice", "planner"))["subject"]
    assert seen["agent"] == house.agent("planner")
    assert house.call(token, "close_ticket", id=42, reason="solved").status_code == 403


def test_what_keycloak_exchanged_goes_on_as_a_chain_here(keycloak: Keycloak, house: House) -> None:
    signed_in = keycloak.token_of("alice", "portal")
    got = exchange(keycloak, "planner", signed_in, audience="agentgw", scope="tickets.read")
    three = house.hand_over(
        "coder", "tester", house.hand_over("planner", "coder", str(got["access_token"]))
    )
    seen = house.seen(three)
    assert seen["agent"] == house.agent("tester")
    assert seen["prior_agents"] == [house.agent("coder"), house.agent("planner")]


def test_keycloaks_exchange_gives_no_scope_unasked(keycloak: Keycloak, house: House) -> None:
    got = exchange(keycloak, "planner", keycloak.token_of("alice", "portal"), audience="agentgw")
    assert got["scope"] == ""
    assert house.call(str(got["access_token"])).status_code == 403


def test_a_token_that_keycloak_gave_for_one_delegate_serves_no_other(
    keycloak: Keycloak, house: House
) -> None:
    """The experimental feature token-exchange-delegation: alice lets dana, an administrator, act."""
    token = keycloak.token_of("alice", "planner", "tickets.read delegation:dana")
    said = jwt.decode(token, options={"verify_signature": False})
    assert said["may_act"] == {"sub": keycloak.administer("GET", "/users?username=dana")[0]["id"]}
    assert "may_act" in house.why(house.call(token))
    answer = house.exchange("planner", token, audience=house.agent("coder"))
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
