"""Whoever takes back Keycloak's token takes back every token that came of it, within a second."""

from __future__ import annotations

import time

import pytest

from tests.harness import wait_for
from tests.keycloak.server import Keycloak
from tests.provider_house import House

pytestmark = pytest.mark.keycloak


def test_revoking_the_first_token_ends_every_descendant_within_a_second(
    keycloak: Keycloak, house: House
) -> None:
    one = keycloak.token_of("alice", "planner")
    handed = house.exchanged("planner", one, audience=house.agent("coder"))
    two = house.exchanged("coder", handed, resource=f"{house.gw.url}/mcp")
    three = house.hand_over("coder", "tester", two)
    unrelated = keycloak.token_of("alice", "planner")
    tokens = (one, two, three)
    assert all(house.lets_in(token) for token in (*tokens, unrelated))
    house.revoke("planner", one)
    revoked = time.monotonic()
    wait_for(lambda: not any(map(house.lets_in, tokens)), "the refusals", 1)
    assert time.monotonic() - revoked < 1
    again = house.exchange("coder", handed, resource=f"{house.gw.url}/mcp")
    assert (again.status_code, again.json()["error"]) == (400, "invalid_request")
    assert house.lets_in(unrelated)


def test_revoking_a_hop_ends_what_came_after_it_and_not_what_came_before(
    keycloak: Keycloak, house: House
) -> None:
    one = keycloak.token_of("alice", "planner")
    two = house.hand_over("planner", "coder", one)
    three = house.hand_over("coder", "tester", two)
    assert all(house.lets_in(token) for token in (one, two, three))
    house.revoke("coder", two)
    wait_for(lambda: not house.lets_in(two) and not house.lets_in(three), "the refusals", 1)
    assert house.lets_in(one)


def test_another_agent_cannot_take_the_token_back(keycloak: Keycloak, house: House) -> None:
    token = keycloak.token_of("alice", "planner")
    with house.gw.client() as client:
        auth = ("tester", "tester-secret-for-tests")
        answer = client.post("/oauth/revoke", data={"token": token}, auth=auth)
    assert answer.json()["error"] == "unauthorized_client"
    assert house.lets_in(token)
