"""Users sign in by authorization code with PKCE; their tokens reach tools whichever way they are made."""

from __future__ import annotations

import jwt
import pytest

from tests.oidc_provider.server import CALLBACK, OidcProvider
from tests.provider_house import House

pytestmark = pytest.mark.oidc_provider


@pytest.mark.parametrize("kind", ["rs256", "es256", "eddsa", "opaque"])
def test_a_user_who_signed_in_reaches_a_tool(
    provider: OidcProvider, house: House, kind: str
) -> None:
    token = provider.token_of("alice", resource=f"urn:gateway:{kind}")
    if kind != "opaque":
        header = jwt.get_unverified_header(token)
        assert (header["alg"].lower(), header["typ"]) == (kind, "at+jwt")
    seen = house.seen(token)
    assert (seen["subject"], seen["agent"]) == ("acme|alice", house.agent("planner"))
    assert seen["scope"] == ["tickets.read"]


@pytest.mark.parametrize("kind", ["es256", "opaque"])
def test_groups_decide(provider: OidcProvider, house: House, kind: str) -> None:
    token = provider.token_of("bob", resource=f"urn:gateway:{kind}")
    assert house.tools(token) == ["tickets__list_tickets"]
    assert house.call(token).json()["error"]["code"] == 46001


def test_the_scope_the_user_consented_to_is_the_limit(provider: OidcProvider, house: House) -> None:
    token = provider.token_of("alice", scope="tickets.read")
    assert house.lets_in(token)
    assert house.call(token, "close_ticket", id=42, reason="solved").status_code == 403


def test_an_agent_without_a_user_calls_for_itself(provider: OidcProvider, house: House) -> None:
    form = {"grant_type": "client_credentials", "scope": "tickets.read"}
    form["resource"] = "urn:gateway:es256"
    token = provider.post("/token", "night-job", form).json()["access_token"]
    seen = house.seen(token, "list_tickets")
    assert (seen["subject"], seen["agent"]) == ("acme|night-job", house.agent("night"))


def test_a_public_client_proves_no_agent(provider: OidcProvider, house: House) -> None:
    token = provider.token_of("alice", client="laptop")
    assert "nothing proves" in house.why(house.call(token))


def test_refresh_id_and_foreign_tokens_are_refused(provider: OidcProvider, house: House) -> None:
    scope = "openid offline_access tickets.read"
    code, form = provider.code("alice", "planner", "urn:gateway:opaque", scope, prompt="consent")
    form |= {"grant_type": "authorization_code", "code": code, "resource": "urn:gateway:opaque"}
    got = provider.post("/token", "planner", form).json()
    assert "nothing marks" in house.why(house.call(got["refresh_token"]))
    assert house.call(got["id_token"]).status_code == 401
    assert house.lets_in(got["access_token"])
    foreign = provider.token_of("alice", resource="urn:elsewhere")
    assert "audience" in house.why(house.call(foreign))


def test_a_client_that_registered_itself_is_nobody_until_the_operator_names_it(
    provider: OidcProvider, house: House
) -> None:
    wanted = {
        "redirect_uris": [CALLBACK],
        "grant_types": ["authorization_code"],
        "token_endpoint_auth_method": "client_secret_basic",
    }
    with provider.http() as http:
        registered = http.post(f"{provider.url}/reg", json=wanted).json()
    name = registered["client_id"]
    secret = registered["client_secret"]
    token = provider.token_of("alice", client=name, secret=secret)
    assert house.tools(token) == []
    assert house.call(token).json()["error"]["code"] == 46001
    before = house.gw.config["agents"]
    agent = {"clients": [{"issuer": "acme", "client_id": name, "confidential": True}]}
    house.gw.config["agents"] = {**before, "newcomer": agent}
    house.gw.config["grants"].append({"agents": ["newcomer"], "tools": ["tickets/read_ticket"]})
    house.gw.reload()
    assert house.seen(token)["agent"] == house.agent("newcomer")
    house.gw.config["agents"] = before
    house.gw.config["grants"].pop()
    house.gw.reload()
    assert house.call(token).json()["error"]["code"] == 46001


def test_a_token_revoked_at_the_provider_is_refused_here_once_it_is_asked(
    provider: OidcProvider, house: House
) -> None:
    token = provider.token_of("alice", resource="urn:gateway:opaque")
    assert provider.post("/token/revocation", "planner", {"token": token}).status_code == 200
    assert "not active" in house.why(house.call(token))
