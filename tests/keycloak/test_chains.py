"""Chains that begin with a token of Keycloak and grow at the gateway's token endpoint."""

from __future__ import annotations

import pytest

from tests.keycloak.server import Keycloak
from tests.provider_house import House

pytestmark = pytest.mark.keycloak


def names(act: dict[str, object] | None) -> list[object]:
    found = []
    while isinstance(act, dict):
        found.append(act["sub"])
        act = act.get("act")  # type: ignore[assignment]
    return found


def test_two_hops_reach_the_tool_server_as_a_nested_act(keycloak: Keycloak, house: House) -> None:
    token = house.hand_over("planner", "coder", keycloak.token_of("alice", "planner"))
    seen = house.seen(token, "close_ticket", id=43, reason="solved")
    assert seen["agent"] == house.agent("coder")
    assert seen["prior_agents"] == [house.agent("planner")]
    assert names(seen["act"]) == [house.agent("coder"), house.agent("planner")]
    assert seen["scope"] == ["tickets.write"]


def test_three_hops_keep_the_user_and_every_agent(keycloak: Keycloak, house: House) -> None:
    token = keycloak.token_of("alice", "planner")
    alice = house.seen(token)["subject"]
    token = house.hand_over("planner", "coder", token)
    token = house.hand_over("coder", "tester", token)
    seen = house.seen(token)
    assert seen["subject"] == alice
    assert names(seen["act"]) == [house.agent(name) for name in ("tester", "coder", "planner")]


def test_each_agent_of_the_chain_can_only_take_rights_away(
    keycloak: Keycloak, house: House
) -> None:
    two = house.hand_over("planner", "coder", keycloak.token_of("alice", "planner"))
    three = house.hand_over("coder", "tester", two)
    assert "tickets__list_tickets" in house.tools(two)
    assert house.tools(three) == ["tickets__read_ticket"]
    assert house.call(three, "list_tickets").json()["error"]["code"] == 46001


def test_the_group_of_the_first_token_decides_to_the_end_of_the_chain(
    keycloak: Keycloak, house: House
) -> None:
    token = house.hand_over("planner", "coder", keycloak.token_of("bob", "planner"))
    assert house.tools(token) == ["tickets__list_tickets"]


def test_scope_and_life_never_grow_beyond_keycloaks_token(keycloak: Keycloak, house: House) -> None:
    token = keycloak.token_of("alice", "planner", "tickets.read")
    wider = house.exchange(
        "planner", token, audience=house.agent("coder"), scope="tickets.read tickets.write"
    )
    assert wider.json()["error"] == "invalid_scope"
    handed = house.exchange("planner", token, audience=house.agent("coder")).json()
    assert handed["expires_in"] <= 300
    taken = house.exchanged("coder", handed["access_token"], resource=f"{house.gw.url}/mcp")
    assert house.call(taken, "close_ticket", id=42, reason="solved").status_code == 403


def test_only_the_client_that_keycloak_issued_the_token_to_may_hand_it_over(
    keycloak: Keycloak, house: House
) -> None:
    token = keycloak.token_of("alice", "planner")
    stolen = house.exchange("coder", token, audience=house.agent("tester"))
    assert (stolen.status_code, stolen.json()["error"]) == (400, "invalid_grant")
    unproven = keycloak.token_of("alice", "laptop-agent", "tickets.read")
    started = house.exchange("planner", unproven, audience=house.agent("coder"))
    assert (started.status_code, started.json()["error"]) == (400, "invalid_grant")
