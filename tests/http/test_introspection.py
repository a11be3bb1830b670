from __future__ import annotations

import jwt
import pytest

from agentgw.errors import InvalidToken
from tests.sts.sts_under_test import (
    GATEWAY,
    IDP,
    MCP,
    NOW,
    StsUnderTest,
    agent_id,
    claims_of,
)

pytestmark = pytest.mark.anyio
SIGNED = "application/token-introspection+jwt"


async def test_tells_an_agent_what_its_token_says(service: StsUnderTest) -> None:
    handed = await service.token(service.idp_token(), agent_id("coder"))
    token = await service.token(handed, MCP, "coder", scope="tickets.read")
    answer = await service.introspect(token, "coder")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    claims = claims_of(token)
    assert answer.json() == {"active": True, "token_type": "Bearer", **claims}
    assert claims["act"]["act"]["sub"] == agent_id("planner")
    assert claims["scope"] == "tickets.read"


async def test_those_it_concerns_may_look(service: StsUnderTest) -> None:
    handed = await service.token(service.idp_token(), agent_id("coder"))
    coders = await service.token(handed, MCP, "coder")
    for token, agents in (
        (service.idp_token(), {"planner", "coder"}),  # coder may start from planner's client
        (handed, {"planner", "coder"}),
        (coders, {"planner", "coder"}),
        (await service.token(service.idp_token(), MCP), {"planner"}),
    ):
        for agent in ("planner", "coder", "tester"):
            answer = await service.introspect(token, agent)
            assert answer.json()["active"] is (agent in agents), (agent, claims_of(token))


async def test_another_issuers_token_is_shown_as_far_as_it_is_believed(
    service: StsUnderTest,
) -> None:
    token = service.idp_token(act={"sub": "mallory"}, txn="made-up", email="alice@example.com")
    assert (await service.introspect(token)).json() == {
        "active": True,
        "token_type": "Bearer",
        "iss": IDP,
        "sub": "alice",
        "aud": [MCP, "account"],
        "scope": "tickets.read tickets.write",
        "iat": NOW - 60,
        "exp": NOW + 840,
        "jti": "idp-7c1",
    }


async def test_what_is_over_revoked_or_locked_out_is_not_active(service: StsUnderTest) -> None:
    token = await service.token(service.idp_token(), MCP)
    service.revocations.revoke_party("subject", "acme|alice")
    await service.refresh()
    assert (await service.introspect(token)).json() == {"active": False}
    service.revocations.lift("subject", "acme|alice", NOW)
    await service.refresh()
    assert (await service.introspect(token)).json()["active"] is True
    service.clock.now = NOW + 900
    assert (await service.introspect(token)).json() == {"active": False}
    service.clock.now = NOW
    await service.revoke(token)
    assert (await service.introspect(token)).json() == {"active": False}


async def test_the_signed_form_is_for_the_one_who_asked(service: StsUnderTest) -> None:
    token = await service.token(service.idp_token(), MCP)
    answer = await service.introspect(token, Accept=SIGNED)
    assert answer.headers["content-type"] == SIGNED
    header = jwt.get_unverified_header(answer.text)
    assert (header["typ"], header["alg"]) == ("token-introspection+jwt", "ES256")
    key = service.keyring.key(header["kid"])
    assert key is not None
    claims = jwt.decode(answer.text, key.public, ["ES256"], audience=agent_id("planner"))
    assert claims == {
        "iss": GATEWAY,
        "aud": agent_id("planner"),
        "iat": NOW,
        "token_introspection": {"active": True, "token_type": "Bearer", **claims_of(token)},
    }
    unknown = await service.introspect("unknown", Accept=f"application/json;q=0.5, {SIGNED}")
    assert claims_of(unknown.text)["token_introspection"] == {"active": False}


async def test_the_signed_form_is_no_credential(service: StsUnderTest) -> None:
    token = await service.token(service.idp_token(), MCP)
    signed = (await service.introspect(token, Accept=SIGNED)).text
    with pytest.raises(InvalidToken):
        await service.verifier.authenticate(signed.encode(), service.clock())
    assert (await service.exchange(signed, MCP)).status_code == 400
    assert (await service.introspect(signed)).json() == {"active": False}


async def test_a_token_for_one_call_shows_itself_to_the_agents_in_it(
    service: StsUnderTest,
) -> None:
    token = await service.call_token()
    claims = claims_of(token)
    shown = (await service.introspect(token)).json()
    assert shown == {"active": True, "token_type": "Bearer", **claims}
    assert shown["authorization_details"][0]["identifier"] == "close_ticket"
    assert (await service.introspect(token, "tester")).json() == {"active": False}
    service.clock.now = NOW + 61
    assert (await service.introspect(token)).json() == {"active": False}


async def test_every_look_is_a_record_without_the_token(service: StsUnderTest) -> None:
    token = await service.token(service.idp_token(), MCP)
    for agent, active, jti in (("planner", True, claims_of(token)["jti"]), ("tester", False, None)):
        answer = await service.introspect(token, agent)
        record = service.records[-1]
        assert record["event_id"] == answer.headers["agentgw-event-id"]
        assert (record["method"], record["presenter"]) == ("oauth/introspect", agent_id(agent))
        assert record["detail"] == {
            "client_auth": "client_secret_basic", "active": active, "jti": jti,
        }  # fmt: skip
        assert token not in str(record)
