"""Opaque tokens, and JWTs that their issuer is asked about, through a real endpoint on loopback."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest

from agentgw.core.possession import Binding
from agentgw.core.principal import Hop, Subject
from agentgw.errors import InvalidToken
from agentgw.identity.introspection import INACTIVE_MEMORY, MEMORY, Introspection
from agentgw.identity.oidc import OidcKeys
from agentgw.identity.verifier import TokenVerifier
from tests.harness import Issuer
from tests.identity.forge import CODER, PLANNER, US, FixedKeys, acme_rules, build

pytestmark = pytest.mark.anyio
AUDIENCE = f"{US}/mcp"


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    running = Issuer().start()
    yield running
    running.stop()


@asynccontextmanager
async def verifying(
    issuer: Issuer, *, jwts: bool = False, secret: str = "gateway-secret", **changes: Any
) -> AsyncIterator[TokenVerifier]:
    async with httpx2.AsyncClient(trust_env=False) as client:
        asked = Introspection(issuer.url, client, "gateway", secret, dev=True)
        keys = OidcKeys(issuer.url, client, dev=True)
        yield build(
            acme_rules(issuer=issuer.url, **changes),
            keys={"acme": keys, "other": FixedKeys([])},
            introspection={"acme": asked} if jwts else None,
            opaque=None if jwts else ("acme", asked),
        )
        await keys.aclose()


async def test_an_opaque_token_names_user_agent_groups_and_scopes(issuer: Issuer) -> None:
    async with verifying(issuer) as door:
        token = issuer.opaque(AUDIENCE)
        caller = await door.authenticate(token.encode(), time.time())
    assert caller.subject == Subject("acme", "alice", "acme|alice")
    assert caller.chain == (Hop(PLANNER.id, "planner", "client-auth"),)
    assert caller.groups == {"acme:group:support"}
    assert caller.scopes == {"tickets.read", "tickets.write"}
    assert caller.inbound.iss == issuer.url


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"aud": "https://elsewhere.example"}, "audience"),
        ({"aud": None}, "audience"),
        ({"exp": None}, "no exp"),
        ({"exp": 1}, "expired"),
        ({"token_type": None}, "nothing marks"),
        ({"typ": "Refresh"}, "another kind"),
        ({"token_use": "refresh_token"}, "token_use"),
        ({"nonce": "n"}, "nonce"),
        ({"client_id": "coder"}, "two different clients"),
        ({"azp": None}, "no client"),
        ({"act": {"sub": "x"}, "azp": "coder"}, "act"),
        ({"sub": None}, "sub"),
        ({"may_act": {"sub": "coder"}}, "may_act"),
        ({"iss": "https://evil.example"}, "another issued it"),
    ],
)
async def test_the_answer_goes_through_the_rules_of_a_jwts_claims(
    issuer: Issuer, claims: dict[str, Any], reason: str
) -> None:
    token = issuer.opaque(AUDIENCE, **claims)
    async with verifying(issuer) as door:
        with pytest.raises(InvalidToken, match=reason):
            await door.authenticate(token.encode(), time.time())


async def test_an_answer_serves_sixty_seconds_and_no_longer(issuer: Issuer) -> None:
    token = issuer.opaque(AUDIENCE)
    now = time.time()
    async with verifying(issuer) as door:
        await door.authenticate(token.encode(), now)
        await door.verify_subject_token(token.encode(), now + MEMORY - 1)
        assert issuer.asked.count(token) == 1
        assert door.lookup(token.encode(), now + MEMORY - 1) is not None
        assert door.lookup(token.encode(), now + MEMORY) is None
        del issuer.known[token]
        with pytest.raises(InvalidToken, match="not active"):
            await door.authenticate(token.encode(), now + MEMORY)


async def test_an_answer_never_outlives_its_token(issuer: Issuer) -> None:
    now = int(time.time())
    token = issuer.opaque(AUDIENCE, exp=now + 20).encode()
    async with verifying(issuer) as door:
        await door.authenticate(token, now)
        assert door.lookup(token, now + 14) is not None
        assert door.lookup(token, now + 15) is None
        with pytest.raises(InvalidToken, match="expired"):
            await door.authenticate(token, now + 20)


async def test_a_no_is_remembered_for_a_moment(issuer: Issuer) -> None:
    now = time.time()
    async with verifying(issuer) as door:
        for moment in (now, now + 1, now + INACTIVE_MEMORY - 1):
            with pytest.raises(InvalidToken, match="not active"):
                await door.authenticate(b"nobody-knows-me", moment)
        assert issuer.asked.count("nobody-knows-me") == 1
        issuer.known["nobody-knows-me"] = issuer.known[issuer.opaque(AUDIENCE)]
        await door.authenticate(b"nobody-knows-me", now + INACTIVE_MEMORY)


async def test_callers_at_once_share_one_request(issuer: Issuer) -> None:
    token = issuer.opaque(AUDIENCE)
    async with verifying(issuer) as door:
        now = time.time()
        await asyncio.gather(*(door.authenticate(token.encode(), now) for _ in range(50)))
    assert issuer.asked.count(token) == 1


async def test_a_caller_who_goes_away_takes_no_answer_along(issuer: Issuer) -> None:
    token = issuer.opaque(AUDIENCE)
    async with verifying(issuer) as door:
        first = asyncio.create_task(door.authenticate(token.encode(), time.time()))
        second = asyncio.create_task(door.authenticate(token.encode(), time.time()))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).subject.sub == "alice"


async def test_a_jwt_is_asked_about_only_after_its_signature_held(issuer: Issuer) -> None:
    short = {"sub": None, "aud": None, "groups": None, "scope": None}
    token = issuer.token(AUDIENCE, **short)
    whole = issuer.opaque(AUDIENCE)
    issuer.known[token] = issuer.known[whole]
    header, payload, signature = token.split(".")
    bent = ".".join((header, payload, signature[:10] + "AAAA" + signature[14:]))
    async with verifying(issuer, jwts=True) as door:
        with pytest.raises(InvalidToken, match="signature"):
            await door.authenticate(bent.encode(), time.time())
        assert bent not in issuer.asked
        caller = await door.authenticate(token.encode(), time.time())
        assert caller.groups == {"acme:group:support"}
        with pytest.raises(InvalidToken, match="three parts"):
            await door.authenticate(whole.encode(), time.time())
        assert whole not in issuer.asked


async def test_a_jwt_revoked_at_its_issuer_ends_within_the_minute(issuer: Issuer) -> None:
    token = issuer.token(AUDIENCE)
    issuer.known[token] = issuer.known[issuer.opaque(AUDIENCE)]
    now = time.time()
    async with verifying(issuer, jwts=True) as door:
        await door.authenticate(token.encode(), now)
        del issuer.known[token]
        with pytest.raises(InvalidToken, match="not active"):
            await door.authenticate(token.encode(), now + MEMORY)


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"nonce": "n"}, "nonce"),
        ({"typ": "Refresh"}, "another kind"),
        ({"may_act": {"sub": "coder"}}, "may_act"),
        ({"cnf": {"jwk": {}}}, "cnf"),
        ({"authorization_details": [{"type": "urn:agentgw:mcp-tool:1"}]}, "authorization_details"),
    ],
)
async def test_what_limits_a_jwt_holds_though_the_answer_leaves_it_out(
    issuer: Issuer, claims: dict[str, Any], reason: str
) -> None:
    token = issuer.token(AUDIENCE, **claims)
    issuer.known[token] = issuer.known[issuer.opaque(AUDIENCE)]
    async with verifying(issuer, jwts=True) as door:
        with pytest.raises(InvalidToken, match=reason):
            await door.authenticate(token.encode(), time.time())


async def test_a_jwt_stays_bound_and_keeps_its_chain_though_the_answer_leaves_them_out(
    issuer: Issuer,
) -> None:
    token = issuer.token(AUDIENCE, cnf={"jkt": "A" * 43}, act={"sub": "coder"})
    issuer.known[token] = issuer.known[issuer.opaque(AUDIENCE)]
    async with verifying(issuer, jwts=True, may_assert_act=True) as door:
        caller = await door.authenticate(token.encode(), time.time())
    assert caller.binding == Binding(jkt="A" * 43)
    assert [hop.id for hop in caller.chain] == [CODER.id]
    said = {**issuer.known[token], "cnf": {"jkt": "B" * 43}}
    issuer.known[token] = said
    async with verifying(issuer, jwts=True, may_assert_act=True) as door:
        caller = await door.authenticate(token.encode(), time.time())
    assert caller.binding == Binding(jkt="B" * 43), "where both speak, the answer counts"


async def test_a_gateway_the_issuer_does_not_know_lets_nobody_in(issuer: Issuer) -> None:
    token = issuer.opaque(AUDIENCE)
    async with verifying(issuer, secret="old-secret") as door:
        with pytest.raises(InvalidToken, match="could not be asked about it: it answered 401"):
            await door.authenticate(token.encode(), time.time())


async def test_recovery_needs_nobody(issuer: Issuer) -> None:
    passing = Issuer()
    async with verifying(passing) as door:
        token = passing.opaque(AUDIENCE).encode()
        with pytest.raises(InvalidToken, match="cannot be reached"):
            await door.authenticate(token, time.time())
        passing.start()
        assert (await door.authenticate(token, time.time())).subject.sub == "alice"
    passing.stop()
