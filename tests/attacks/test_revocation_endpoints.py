"""Attacks on revocation and introspection; each changes nothing and tells nothing."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from agentgw.core.canonical import b64url
from agentgw.errors import InvalidToken
from tests.sts.sts_under_test import (
    GATEWAY,
    MCP,
    NOW,
    SECRETS,
    StsUnderTest,
    agent_id,
    claims_of,
    forged,
)

pytestmark = pytest.mark.anyio
PATHS = ("/oauth/revoke", "/oauth/introspect")
ORDER_OF_P256 = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[StsUnderTest]:
    """Whatever is tried, planner's token stays what it was, and may be revoked by planner at last."""
    async with StsUnderTest(tmp_path) as made:
        honest = await made.token(made.idp_token(jti="honest"), MCP)
        yield made
        assert (await made.introspect(honest)).json()["active"] is True
        assert (await made.revoke(honest)).status_code == 200
        assert (await made.introspect(honest)).json() == {"active": False}


def assert_refused(answer: httpx2.Response, *errors: str) -> None:
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json()["error"] in errors, answer.text
    assert answer.headers["cache-control"] == "no-store"


async def test_another_agent_revokes_nothing_of_planners(service: StsUnderTest) -> None:
    users = service.idp_token()
    planners = await service.token(users, MCP)
    handed = await service.token(users, agent_id("coder"))
    coders = await service.token(handed, MCP, "coder")
    for token, agent in (
        (users, "tester"), (planners, "tester"), (planners, "coder"), (handed, "tester"),
        (coders, "tester"), (coders, "planner"),
    ):  # fmt: skip
        assert_refused(await service.revoke(token, agent), "unauthorized_client")
        assert service.records[-1]["decision"] == "deny"
        assert token not in str(service.records)
    assert service.revocations.since(0) == []


async def test_an_outsider_learns_nothing_of_anothers_token(service: StsUnderTest) -> None:
    token = await service.token(service.idp_token(), MCP)
    unknown = await service.introspect("unknown", "tester")
    theirs = await service.introspect(token, "tester")
    assert theirs.content == unknown.content == b'{"active":false}'
    signed = await service.introspect(token, "tester", Accept="application/token-introspection+jwt")
    assert claims_of(signed.text)["token_introspection"] == {"active": False}


@pytest.mark.parametrize("path", PATHS)
async def test_nobody_gets_in_without_authentication(service: StsUnderTest, path: str) -> None:
    token = await service.token(service.idp_token(), MCP)
    for form, headers in (
        ({"token": token}, {}),
        ({"token": token, "client_id": "planner"}, {}),
        ({"token": token, "client_id": "planner", "client_secret": "wrong"}, {}),
        ({"token": token}, {"Authorization": f"Bearer {token}"}),
    ):
        answer = await service.post(form, None, path, **headers)
        assert_refused(answer, "invalid_client")
        assert answer.status_code == 401
        assert "agentgw-event-id" not in answer.headers
    assert service.refused


@pytest.mark.parametrize("path", PATHS)
async def test_one_form_of_asking_and_no_other(service: StsUnderTest, path: str) -> None:
    token = await service.token(service.idp_token(), MCP)
    wrong: list[list[tuple[str, str]]] = [
        [],
        [("token", "")],
        [("token", token), ("token", token)],
        [("token", token), ("token", "other")],
        [("token", "x" * 17_000)],
        [("token", "x" * 70_000)],
        [("token", token + "\0")],
        [("token_type_hint", "access_token")],
        [("token", token), ("token_type_hint", "a"), ("token_type_hint", "b")],
    ]
    for form in wrong:
        assert_refused(await service.post(form, path=path), "invalid_request")
    for name, secret in (("client_id", "planner"), ("client_secret", SECRETS["planner"])):
        form = [("token", token), (name, secret), (name, secret)]
        assert_refused(await service.post(form, path=path), "invalid_request")
    in_query = await service.client.post(f"{path}?token={token}", data={"token": token})
    assert_refused(in_query, "invalid_request")
    as_json = await service.client.post(path, json={"token": token})
    assert_refused(as_json, "invalid_request")
    get = await service.client.get(path, params={"token": token})
    assert (get.status_code, get.headers["allow"]) == (405, "POST")
    assert service.revocations.since(0) == []


async def test_a_forged_token_revokes_nobody_elses(service: StsUnderTest) -> None:
    real = await service.token(service.idp_token(), MCP)
    bent = forged(real, act={"iss": GATEWAY, "sub": agent_id("tester")})
    swapped = service.idp_token(azp="tester", jti=claims_of(real)["jti"])
    for token in (bent, swapped):
        assert (await service.revoke(token, "tester")).status_code == 200
    assert (await service.introspect(real)).json()["active"] is True


async def test_a_rewritten_signature_is_still_the_revoked_token(service: StsUnderTest) -> None:
    for jti in ("idp-7c1", None):
        token = service.idp_token(jti=jti)
        twin = rewritten(token)
        assert twin != token
        assert await service.verifier.authenticate(twin.encode(), NOW)
        assert (await service.revoke(token)).status_code == 200
        service.verifier.forget(service.revoked.tokens_of)
        assert service.verifier.lookup(twin.encode(), NOW) is None
        with pytest.raises(InvalidToken, match="revoked"):
            await service.verifier.authenticate(twin.encode(), NOW)


def rewritten(token: str) -> str:
    """The same token under another valid ECDSA signature, which takes no key to make."""
    signed, _, signature = token.rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
    other = ORDER_OF_P256 - s
    return f"{signed}.{b64url(r.to_bytes(32, 'big') + other.to_bytes(32, 'big'))}"


async def test_revoking_in_a_flood_leaves_one_row(service: StsUnderTest) -> None:
    token = await service.token(service.idp_token(), MCP)
    for _ in range(20):
        assert (await service.revoke(token)).status_code == 200
        assert (await service.revoke(f"unknown-{_}")).status_code == 200
    assert len(service.revocations.since(0)) == 1
