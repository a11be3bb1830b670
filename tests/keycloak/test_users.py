"""Users and groups of Keycloak reach tools through a confidential client, and nothing else does."""

from __future__ import annotations

import pytest

from tests.harness import Issuer
from tests.keycloak.server import Keycloak
from tests.provider_house import House

pytestmark = pytest.mark.keycloak


def test_a_user_of_keycloak_reaches_a_tool_that_sees_user_and_agent(
    keycloak: Keycloak, house: House
) -> None:
    seen = house.seen(keycloak.token_of("alice", "planner"))
    alice = keycloak.administer("GET", "/users?username=alice")[0]["id"]
    assert seen["subject"] == f"acme|{alice}"
    assert seen["agent"] == house.agent("planner")
    assert seen["prior_agents"] == []
    assert seen["scope"] == ["tickets.read"]
    assert "act" not in seen["act"]


def test_groups_of_keycloak_decide_what_a_user_sees_and_may_call(
    keycloak: Keycloak, house: House
) -> None:
    alice, bob = (keycloak.token_of(user, "planner") for user in ("alice", "bob"))
    assert sorted(house.tools(alice)) == [
        "tickets__close_ticket", "tickets__list_tickets", "tickets__read_ticket",
    ]  # fmt: skip
    assert house.tools(bob) == ["tickets__list_tickets"]
    assert house.call(bob).json()["error"]["code"] == 46001
    assert house.seen(bob, "list_tickets")["agent"] == house.agent("planner")


def test_a_user_who_leaves_the_group_loses_its_rights_with_the_next_token(
    keycloak: Keycloak, house: House
) -> None:
    bob = keycloak.administer("GET", "/users?username=bob")[0]["id"]
    support = keycloak.administer("GET", "/groups?search=support")[0]["id"]
    keycloak.administer("PUT", f"/users/{bob}/groups/{support}")
    try:
        assert "result" in house.call(keycloak.token_of("bob", "planner")).json()
    finally:
        keycloak.administer("DELETE", f"/users/{bob}/groups/{support}")
    refused = house.call(keycloak.token_of("bob", "planner")).json()
    assert refused["error"]["code"] == 46001


def test_a_scope_that_keycloak_did_not_give_is_asked_for(keycloak: Keycloak, house: House) -> None:
    narrow = keycloak.token_of("alice", "planner", "tickets.read")
    answer = house.call(narrow, "close_ticket", id=42, reason="solved")
    assert answer.status_code == 403
    assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]
    assert "tickets.write" in answer.headers["www-authenticate"]


def test_the_name_of_a_public_client_proves_no_agent(keycloak: Keycloak, house: House) -> None:
    answer = house.call(keycloak.token_of("alice", "laptop-agent", "tickets.read"))
    assert "nothing proves" in house.why(answer)


def test_an_agent_without_a_user_calls_with_its_own_account(
    keycloak: Keycloak, house: House
) -> None:
    token = keycloak.token("night-job", grant_type="client_credentials", scope="tickets.read")
    assert house.seen(token, "list_tickets")["agent"] == house.agent("night")
    assert house.call(token).json()["error"]["code"] == 46001


def test_tokens_for_others_and_tokens_of_other_kinds_are_refused(
    keycloak: Keycloak, house: House
) -> None:
    for_planner = keycloak.token_of("alice", "portal")
    signed_in = keycloak.answer(
        "planner", grant_type="password", username="alice", password="alice-password",
        scope="openid tickets.read",
    ).json()  # fmt: skip
    refused = [for_planner, signed_in["refresh_token"], signed_in["id_token"]]
    assert [house.call(token).status_code for token in refused] == [401, 401, 401]
    assert house.seen(signed_in["access_token"])["agent"] == house.agent("planner")


def test_another_issuer_cannot_name_a_user_or_a_group_of_keycloak(
    house: House, issuer: Issuer, keycloak: Keycloak
) -> None:
    alice = keycloak.administer("GET", "/users?username=alice")[0]["id"]
    forged = issuer.token("agentgw", sub=alice, groups=["support"], azp="planner")
    assert house.call(forged).json()["error"]["code"] == 46001
    pretending = issuer.token("agentgw", iss=keycloak.url, sub=alice)
    assert house.call(pretending).status_code == 401
