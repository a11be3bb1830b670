"""Keycloak is asked about its tokens (RFC 7662): signing out there counts here, and short tokens suffice."""

from __future__ import annotations

import time
from collections.abc import Iterator

import jwt
import pytest

from tests.harness import Issuer, wait_for
from tests.keycloak.conftest import settings
from tests.keycloak.server import Keycloak
from tests.keycloak.test_outage import hanging
from tests.provider_house import House
from tests.provider_house import house as run_house

pytestmark = pytest.mark.keycloak


@pytest.fixture(scope="module")
def asking(
    tmp_path_factory: pytest.TempPathFactory, keycloak: Keycloak, issuer: Issuer
) -> Iterator[House]:
    """A gateway that asks Keycloak about each JWT."""
    found = settings(keycloak, issuer)
    secret = {"client_id": "agentgw", "client_secret": "agentgw-secret", "tokens": "jwt"}
    found["issuers"]["acme"]["introspection"] = secret
    found["agents"]["slim"] = {
        "clients": [{"issuer": "acme", "client_id": "slim", "confidential": True}]
    }
    found["grants"].append({"agents": ["slim"], "tools": ["tickets/*"]})
    with run_house(tmp_path_factory.mktemp("asking"), issuer, found) as running:
        yield running


def test_signing_out_at_keycloak_ends_the_tokens_of_the_session(
    keycloak: Keycloak, asking: House, house: House
) -> None:
    before = [keycloak.token_of("bob", "planner") for _ in range(2)]
    assert asking.seen(before[0], "list_tickets")["agent"] == asking.agent("planner")
    bob = keycloak.administer("GET", "/users?username=bob")[0]["id"]
    keycloak.administer("POST", f"/users/{bob}/logout")
    assert "not active" in asking.why(asking.call(before[1], "list_tickets"))
    assert house.seen(before[1], "list_tickets")  # a gateway that does not ask cannot know
    signed_out = time.monotonic()
    wait_for(lambda: asking.call(before[0], "list_tickets").status_code == 401, "the end", 65)
    assert time.monotonic() - signed_out < 61
    assert asking.seen(keycloak.token_of("bob", "planner"), "list_tickets")


def test_a_lightweight_token_has_its_claims_from_keycloak(
    keycloak: Keycloak, asking: House, house: House
) -> None:
    token = keycloak.token_of("alice", "slim", "tickets.read")
    said = jwt.decode(token, options={"verify_signature": False})
    assert not {"aud", "sub", "groups", "preferred_username"} & said.keys()
    assert house.call(token).status_code == 401
    seen = asking.seen(token)
    assert seen["subject"] == asking.seen(keycloak.token_of("alice", "planner"))["subject"]
    assert seen["agent"] == asking.agent("slim")


def test_no_answer_is_no_access_but_what_was_answered_lately_goes_on(
    keycloak: Keycloak, asking: House
) -> None:
    known, fresh = (keycloak.token_of("alice", "planner") for _ in range(2))
    assert asking.lets_in(known)
    with hanging(keycloak):
        assert "could not be asked" in asking.why(asking.call(fresh))
        assert asking.lets_in(known)
    wait_for(lambda: asking.lets_in(fresh), "Keycloak's answer", 10)
