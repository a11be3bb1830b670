"""Bound tokens at the token endpoint: what is bound to what, and who gets nothing (RFC 9449 section 5)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from agentgw.core.possession import Binding
from agentgw.identity.dpop import Nonces
from tests.dpop import Prover
from tests.sts.sts_under_test import (
    GATEWAY,
    MCP,
    NOW,
    StsUnderTest,
    agent_id,
    claims_of,
    exchange_rules,
    subject_form,
)

pytestmark = pytest.mark.anyio
HERE = f"{GATEWAY}/oauth/token"


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[StsUnderTest]:
    async with StsUnderTest(tmp_path) as made:
        yield made


@pytest.fixture
def prover() -> Prover:
    return Prover(now=NOW)


async def exchange(
    service: StsUnderTest, subject: str, *proofs: str, target: str = MCP, agent: str = "planner"
) -> httpx2.Response:
    kind = "audience" if "/a2a/" in target else "resource"
    return await service.prove(subject_form(subject) | {kind: target}, agent, *proofs)


def refused(answer: httpx2.Response, error: str, *words: str) -> None:
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"] == error, answer.text
    for word in words:
        assert word in answer.json()["error_description"]


async def test_a_proof_binds_the_token_that_is_issued(
    service: StsUnderTest, prover: Prover
) -> None:
    answer = await exchange(service, service.idp_token(), prover.proof("POST", HERE))
    assert answer.status_code == 200, answer.text
    assert answer.json()["token_type"] == "DPoP"
    token = answer.json()["access_token"]
    assert claims_of(token)["cnf"] == prover.cnf
    caller = await service.verifier.authenticate(token.encode(), NOW)
    assert caller.binding == Binding(jkt=prover.jkt)
    assert caller.chain[0].evidence == "dpop"
    entry = service.ledger.find(claims_of(token)["jti"])
    assert entry is not None and entry.binding == Binding(jkt=prover.jkt)


async def test_a_bound_token_is_exchanged_by_its_key_only(
    service: StsUnderTest, prover: Prover
) -> None:
    for subject in (
        service.idp_token(cnf=prover.cnf),
        (await exchange(service, service.idp_token(), prover.proof("POST", HERE))).json()[
            "access_token"
        ],
    ):
        for target in (MCP, agent_id("coder")):
            stolen = await exchange(service, subject, target=target)
            refused(stolen, "invalid_grant", "DPoP key")
            thief = Prover(now=NOW).proof("POST", HERE)
            refused(await exchange(service, subject, thief, target=target), "invalid_grant")
        honest = await exchange(service, subject, prover.proof("POST", HERE))
        assert claims_of(honest.json()["access_token"])["cnf"] == prover.cnf


async def test_a_hand_over_is_for_its_agent_and_bound_to_no_key(
    service: StsUnderTest, prover: Prover
) -> None:
    bound = service.idp_token(cnf=prover.cnf)
    answer = await exchange(service, bound, prover.proof("POST", HERE), target=agent_id("coder"))
    handed = answer.json()["access_token"]
    assert "cnf" not in claims_of(handed)
    coder = Prover(now=NOW)
    taken = await exchange(service, handed, coder.proof("POST", HERE), agent="coder")
    assert claims_of(taken.json()["access_token"])["cnf"] == coder.cnf
    caller = await service.verifier.authenticate(taken.json()["access_token"].encode(), NOW)
    assert [hop.evidence for hop in caller.chain] == ["dpop", "dpop"]


async def test_a_proof_that_does_not_hold_gets_nothing(
    service: StsUnderTest, prover: Prover
) -> None:
    subject = service.idp_token()
    good = prover.proof("POST", HERE)
    bad: list[tuple[str, ...]] = [
        ("",), ("x",), (good, good), (prover.proof("GET", HERE),), (prover.proof("POST", MCP),),
        (prover.proof("POST", HERE, iat=NOW - 61),), (prover.proof("POST", HERE, iat=NOW + 61),),
        (prover.proof("POST", HERE, header={"jwk": prover.private_jwk}),),
        (prover.proof("POST", HERE, header={"jwk": Prover().jwk}),),
        (prover.proof("POST", HERE, header={"typ": "JWT"}),), (prover.proof("POST", HERE, jti=""),),
    ]  # fmt: skip
    for proofs in bad:
        refused(await exchange(service, subject, *proofs), "invalid_dpop_proof")
    assert (await exchange(service, subject, good)).status_code == 200
    refused(await exchange(service, subject, good), "invalid_dpop_proof", "used before")
    assert service.records[-1]["decision"] == "deny"


async def test_a_proof_is_looked_at_after_the_clients_own_credentials(
    service: StsUnderTest, prover: Prover
) -> None:
    proof = prover.proof("POST", HERE)
    form = subject_form(service.idp_token()) | {"resource": MCP}
    assert (await service.post(form, None, DPoP=proof)).status_code == 401
    assert (await service.prove(form, "planner", proof)).status_code == 200


async def test_an_agent_that_must_prove_possession_gets_nothing_without(
    service: StsUnderTest, prover: Prover
) -> None:
    planner = replace(service.rules.agents["planner"], require="dpop")
    service.rules = exchange_rules(planner=planner)
    for target in (MCP, agent_id("coder")):
        answer = await exchange(service, service.idp_token(), target=target)
        refused(answer, "invalid_dpop_proof", "planner must send a DPoP proof")
    answer = await exchange(service, service.idp_token(), prover.proof("POST", HERE))
    assert answer.json()["token_type"] == "DPoP"


async def test_nonces(service: StsUnderTest, prover: Prover) -> None:
    service.nonces = Nonces(bytes(32), 60)
    subject = service.idp_token()
    elsewhere = Nonces(bytes([1]) * 32, 60).current(NOW)
    old = service.nonces.current(NOW - 120)
    nonce = ""
    for given in (None, elsewhere, old, "é"):
        answer = await exchange(service, subject, prover.proof("POST", HERE, nonce=given))
        refused(answer, "use_dpop_nonce")
        nonce = answer.headers["dpop-nonce"]
    answer = await exchange(service, subject, prover.proof("POST", HERE, nonce=nonce))
    assert answer.status_code == 200, answer.text
    assert answer.headers["dpop-nonce"] == nonce
    service.clock.now = NOW + 59
    late: dict[str, Any] = {"nonce": nonce, "iat": NOW + 59}
    answer = await exchange(service, subject, prover.proof("POST", HERE, **late))
    assert answer.status_code == 200
    assert answer.headers["dpop-nonce"] != nonce


async def test_a_request_without_a_proof_needs_no_nonce(service: StsUnderTest) -> None:
    service.nonces = Nonces(bytes(32), 60)
    assert (await exchange(service, service.idp_token())).json()["token_type"] == "Bearer"
