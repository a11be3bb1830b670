"""Threat: the gateway as a static client of a SaaS server, which remembers that its users agreed.

Whoever the authorization server lets through without asking must still have agreed at our own page, in
their own browser, and what comes of it is theirs alone (MCP security best practices, confused deputy).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.saas import SECRET, House
from tests.saas import house as run_house


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with run_house(tmp_path_factory.mktemp("deputy")) as running:
        oauth = {"issuer": running.saas.url, "client_id": "gateway", "client_secret": SECRET}
        running.gw.config["servers"]["saas"]["auth"]["oauth"] = oauth
        running.gw.reload()
        running.connect("alice", "alice@saas")
        yield running


def test_nothing_leaves_for_the_authorization_server_before_the_users_own_button(
    house: House,
) -> None:
    browser = house.browser("bob")
    for where in (house.link("bob"), f"{house.gw.url}/oauth/connect/saas"):
        answer = browser.open(where)
        assert answer.status_code == 200 and "location" not in answer.headers


def test_a_code_the_attacker_did_not_ask_for_connects_nothing(house: House) -> None:
    """The Saas lets alice through at once; the attacker sends her to it with a state of their own."""
    attacker = house.browser("mallory")
    left = attacker.agree(attacker.open(f"{house.gw.url}/oauth/connect/saas"))
    victim = house.browser("alice")
    there = victim.http.get(left.headers["location"], headers={"x-account": "alice@saas"})
    assert victim.open(there.headers["location"]).status_code == 403
    assert attacker.open(there.headers["location"]).status_code == 400
    assert house.refused("mallory")["data"]["reason"] == "connect_required"
    assert house.notes("alice") == "the notes of alice@saas"


def test_the_redirect_uri_is_ours_whoever_asks(house: House) -> None:
    browser = house.browser("bob")
    url = f"{house.gw.url}/oauth/connect/saas?redirect_uri=https://evil.example/cb"
    left = browser.agree(browser.open(url))
    assert "evil.example" not in left.headers["location"]


def test_one_users_connection_is_of_no_use_to_another_or_to_an_agent_alone(house: House) -> None:
    for user in ("bob", "mallory", "ALICE", "alice ", "alice|x"):
        assert house.refused(user)["data"]["reason"] == "connect_required"
    assert house.notes("alice") == "the notes of alice@saas"


def test_the_secret_goes_to_the_token_endpoint_and_nowhere_else(house: House) -> None:
    assert SECRET not in str(house.saas.seen) and SECRET not in house.gw.output
    written = b"".join(p.read_bytes() for p in house.gw.state.rglob("*") if p.is_file())
    assert SECRET.encode() not in written
