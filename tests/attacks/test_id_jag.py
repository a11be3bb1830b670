"""Threat: identity assertions (ID-JAG) that are forged, replayed, for others or for more than they say.

What is redeemed is a token of ours whose chain begins at the agent that authenticated; nothing else that
the assertion's issuer signs passes for one, and it passes for nothing else.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest

from agentgw.core.exchange_request import ACCESS_TOKEN
from agentgw.core.id_jag import JWT_BEARER, PROFILE
from agentgw.errors import InvalidToken
from tests.sts.sts_under_test import (
    GATEWAY,
    IDP,
    MCP,
    NOW,
    PARTNER,
    TIME,
    StsUnderTest,
    agent_id,
    claims_of,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[StsUnderTest]:
    made = StsUnderTest(tmp_path)
    made.rules = dataclasses.replace(made.rules, assertions_of=frozenset({"acme"}))
    async with made:
        yield made
        honest = await redeem(made, assertion(made, jti="honest"))
        assert honest.status_code == 200, honest.text


def assertion(
    service: StsUnderTest, typ: str | None = "oauth-id-jag+jwt", key: Any = None, **changes: Any
) -> str:
    claims: dict[str, Any] = {
        "iss": IDP, "sub": "alice", "aud": GATEWAY, "client_id": "planner", "jti": "jag-1",
        "scope": "tickets.read tickets.write", "groups": ["support"], "iat": NOW, "exp": NOW + 300,
    } | changes  # fmt: skip
    kept = {name: value for name, value in claims.items() if value is not None}
    headers = {"kid": "idp-1", "typ": typ}
    return jwt.encode(kept, key or service.idp.private, "ES256", headers=headers)


async def redeem(
    service: StsUnderTest, token: str, agent: str = "planner", **form: str
) -> httpx2.Response:
    return await service.post({"grant_type": JWT_BEARER, "assertion": token, **form}, agent)


async def test_an_agent_gets_a_token_for_the_user_whose_chain_begins_at_itself(
    service: StsUnderTest,
) -> None:
    answer = await redeem(service, assertion(service, acr="gold"))
    assert answer.status_code == 200, answer.text
    body = answer.json()
    claims = claims_of(body["access_token"])
    assert (claims["sub"], claims["aud"], claims["acr"]) == ("acme|alice", MCP, "gold")
    assert claims["act"]["sub"] == agent_id("planner") and "act" not in claims["act"]
    assert (body["token_type"], body["scope"]) == ("Bearer", "tickets.read tickets.write")
    assert "refresh_token" not in body and answer.headers["cache-control"] == "no-store"
    entry = service.ledger.find(claims["jti"])
    assert entry is not None and entry.parent == f"{IDP} jag-1"
    assert entry.groups == {"acme:group:support"} and entry.chain[0].evidence == "exchange"
    caller = await service.verifier.authenticate(body["access_token"].encode(), NOW)
    assert [hop.agent for hop in caller.chain] == ["planner"]
    record = service.records[-1]
    assert record["detail"] == {"client_auth": "client_secret_basic", "grant_type": JWT_BEARER}
    assert record["subject"] == {"iss": "acme", "sub": "alice"}


async def test_what_is_redeemed_may_be_handed_on_and_taken_back(
    service: StsUnderTest,
) -> None:
    jag = assertion(service)
    token = (await redeem(service, jag)).json()["access_token"]
    handed = await service.token(token, agent_id("coder"))
    assert claims_of(handed)["act"]["sub"] == agent_id("planner")
    revoked = await service.revoke(token)
    assert revoked.status_code == 200
    refused = await service.exchange(handed, MCP, "coder")
    assert refused.status_code == 400


async def test_an_assertion_for_one_server_opens_that_one_only(service: StsUnderTest) -> None:
    answer = await redeem(service, assertion(service, resource=TIME))
    assert claims_of(answer.json()["access_token"])["aud"] == TIME
    wider = await redeem(service, assertion(service, resource=TIME, jti="2"), resource=MCP)
    assert wider.json()["error"] == "invalid_target"
    narrower = await redeem(
        service, assertion(service, jti="3"), resource=TIME, scope="tickets.read"
    )
    claims = claims_of(narrower.json()["access_token"])
    assert (claims["aud"], claims["scope"]) == (TIME, "tickets.read")


WRONG: dict[str, dict[str, Any]] = {
    "an access token": {"typ": "at+jwt"},
    "a plain JWT": {"typ": "JWT"},
    "no typ": {"typ": None},
    "for another server": {"aud": "https://other.example"},
    "for our resource": {"aud": MCP},
    "for our token endpoint": {"aud": f"{GATEWAY}/oauth/token"},
    "for two": {"aud": [GATEWAY, "https://other.example"]},
    "for nobody": {"aud": None},
    "another client's": {"client_id": "coder"},
    "an agent's id for its name": {"client_id": agent_id("planner")},
    "nobody's": {"client_id": None},
    "without jti": {"jti": None},
    "with an empty jti": {"jti": ""},
    "with an endless jti": {"jti": "j" * 300},
    "without iat": {"iat": None},
    "without exp": {"exp": None},
    "expired": {"iat": NOW - 400, "exp": NOW - 1},
    "of the future": {"iat": NOW + 400, "exp": NOW + 700},
    "that lives for hours": {"exp": NOW + 7200},
    "without sub": {"sub": None},
    "with a sub of ours": {"sub": ""},
    "with a chain": {"act": {"sub": agent_id("coder")}},
    "with may_act": {"may_act": {"sub": "planner"}},
    "with details nobody reads": {"authorization_details": [{"type": "x"}]},
    "for another's resource": {"resource": "https://other.example/mcp"},
    "for ours and another's": {"resource": [MCP, "https://other.example/mcp"]},
    "for no resource": {"resource": []},
    "bound to a key": {"cnf": {"jkt": "x"}},
    "bound in an unknown way": {"cnf": {"jwk": {}}},
    "of an issuer not asked": {"iss": PARTNER},
    "of an unknown issuer": {"iss": "https://evil.example"},
    "of ourselves": {"iss": GATEWAY},
}


@pytest.mark.parametrize("name", WRONG)
async def test_an_assertion_that_is_not_for_this_is_refused(
    service: StsUnderTest, name: str
) -> None:
    answer = await redeem(service, assertion(service, **WRONG[name]))
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant"), answer.text
    assert service.records[-1]["decision"] == "deny"
    assert "access_token" not in answer.text


async def test_another_agent_does_not_redeem_what_was_made_for_planner(
    service: StsUnderTest,
) -> None:
    stolen = await redeem(service, assertion(service), "coder")
    assert stolen.json()["error"] == "invalid_grant"
    assert (await redeem(service, assertion(service))).status_code == 200


async def test_nobody_redeems_unauthenticated_or_disabled(service: StsUnderTest) -> None:
    form = {"grant_type": JWT_BEARER, "assertion": assertion(service), "client_id": "planner"}
    assert (await service.post(form, None)).status_code == 401
    idle = await redeem(service, assertion(service, client_id="idle", jti="i"), "idle")
    assert idle.status_code == 400 and "access_token" not in idle.text


async def test_an_assertion_serves_once_however_it_is_signed(service: StsUnderTest) -> None:
    first, second = assertion(service), assertion(service)
    assert first != second
    answers = await asyncio.gather(*(redeem(service, t) for t in (first, second, first)))
    assert sorted(answer.status_code for answer in answers) == [200, 400, 400]
    later = await redeem(service, assertion(service, scope="tickets.read"))
    assert "used before" in later.json()["error_description"]


async def test_a_forged_signature_is_refused_and_spends_nothing(service: StsUnderTest) -> None:
    forged = await redeem(service, assertion(service, key=service.coder_key))
    assert forged.json()["error"] == "invalid_grant"
    unsigned = jwt.encode({"iss": IDP}, "", "none", headers={"typ": "oauth-id-jag+jwt"})
    assert (await redeem(service, unsigned)).json()["error"] == "invalid_grant"
    assert (await redeem(service, assertion(service))).status_code == 200


async def test_more_scope_than_the_assertion_has_is_refused(service: StsUnderTest) -> None:
    answer = await redeem(service, assertion(service), scope="tickets.read tickets.admin")
    assert answer.json()["error"] == "invalid_scope"


async def test_an_assertion_is_no_token_at_any_door(service: StsUnderTest) -> None:
    jag = assertion(service, aud=MCP)
    with pytest.raises(InvalidToken):
        await service.verifier.authenticate(jag.encode(), NOW)
    exchanged = await service.exchange(jag, MCP)
    assert exchanged.status_code == 400


@pytest.mark.parametrize(
    "more",
    [
        {"subject_token": "x", "subject_token_type": ACCESS_TOKEN},
        {"actor_token": "x"},
        {"requested_token_type": ACCESS_TOKEN},
        {"requested_token_use": "on_behalf_of"},
        {"authorization_details": "[]"},
        {"resource": "https://other.example/mcp"},
        {"assertion": ""},
        {"assertion": "x" * 20_000},
        {"scope": "a  b"},
    ],
)
async def test_parameters_of_other_grants_and_odd_ones_are_refused(
    service: StsUnderTest, more: dict[str, str]
) -> None:
    form = {"assertion": assertion(service)} | more
    answer = await service.post({"grant_type": JWT_BEARER, **form})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"] in ("invalid_request", "invalid_target", "invalid_scope")


async def test_the_grant_is_there_only_where_an_issuer_is_configured_for_it(
    service: StsUnderTest,
) -> None:
    listed = (await service.client.get("/.well-known/oauth-authorization-server")).json()
    assert JWT_BEARER in listed["grant_types_supported"]
    assert listed["authorization_grant_profiles_supported"] == [PROFILE]
    before = service.rules
    service.rules = dataclasses.replace(before, assertions_of=frozenset())
    listed = (await service.client.get("/.well-known/oauth-authorization-server")).json()
    assert JWT_BEARER not in listed["grant_types_supported"]
    assert "authorization_grant_profiles_supported" not in listed
    answer = await redeem(service, assertion(service))
    assert answer.json()["error"] == "unsupported_grant_type"
    service.rules = before
