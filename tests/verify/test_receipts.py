from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agentgw.verify import InvalidCall
from tests.verify.gateway import GATEWAY, MESSAGE, NOW, FakeGateway

pytestmark = pytest.mark.anyio


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[FakeGateway]:
    made = FakeGateway(tmp_path)
    async with made.client:
        yield made


def hashed(receipt: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(receipt.encode()).digest()).rstrip(b"=").decode()


def receipt_claims(agent: str, **changes: Any) -> dict[str, Any]:
    claims = {
        "iss": GATEWAY,
        "sub": "acme|alice",
        "act": {"iss": GATEWAY, "sub": f"{GATEWAY}/a2a/{agent}", "sub_profile": "ai_agent"},
        "iat": NOW,
        "exp": NOW + 300,
        "jti": f"{agent}.r",
        "origin_jti": agent,
        "txn": "t-1",
        "bounds": {"scope": "tickets.read tickets.write", "resource": [f"{GATEWAY}/mcp"]},
    }
    return claims | changes


def token(
    gateway: FakeGateway,
    newer: dict[str, Any] | None = None,
    older: dict[str, Any] | None = None,
    typ: str = "actor-receipt+jwt",
    **changes: Any,
) -> str:
    """A per-call token of coder after planner, with both receipts, bent at will."""
    oldest = gateway.sign(receipt_claims("planner", **(older or {})), typ)
    newest = gateway.sign(
        receipt_claims("coder", **{"prh": hashed(oldest), "prh_alg": "sha-256"} | (newer or {})),
        typ,
    )
    members = {"actor_receipts": [newest, oldest], "actor_receipts_complete": True}
    return gateway.sign(gateway.claims() | members | changes)


async def test_a_call_with_a_receipt_for_each_agent_is_verified(gateway: FakeGateway) -> None:
    verifier = gateway.verifier(require_receipts=True)
    call = await verifier.verify(token(gateway), MESSAGE)
    assert call.agent == f"{GATEWAY}/a2a/coder"


async def test_without_receipts_only_a_verifier_that_wants_them_refuses(
    gateway: FakeGateway,
) -> None:
    assert (await gateway.verifier().verify(gateway.token(), MESSAGE)).tool == "close_ticket"
    with pytest.raises(InvalidCall, match="has no receipt"):
        await gateway.verifier(require_receipts=True).verify(gateway.token(), MESSAGE)


NARROW = {"scope": "tickets.read", "resource": [f"{GATEWAY}/mcp"]}
ELSEWHERE = {"scope": "tickets.write", "resource": [f"{GATEWAY}/mcpx"]}
ONE = [{"type": "urn:agentgw:mcp-tool:1", "identifier": "a"}]
TWO = [{"type": "urn:agentgw:mcp-tool:1", "identifier": "b"}]


def bounds(details: Any = None) -> dict[str, Any]:
    base = {"scope": "tickets.write", "resource": [f"{GATEWAY}/mcp"]}
    return base if details is None else base | {"authorization_details": details}


@pytest.mark.parametrize(
    ("newer", "older"),
    [
        ({"sub": "acme|bob"}, {}),
        ({}, {"txn": "t-2"}),
        ({"act": {"sub": f"{GATEWAY}/a2a/planner"}}, {}),
        ({"act": {"sub": f"{GATEWAY}/a2a/coder", "act": {"sub": "x"}}}, {}),
        ({"act": None}, {}),
        ({"prh": None}, {}),
        ({"prh": "A" * 43}, {}),
        ({}, {"prh": "A" * 43}),
        ({}, {"bounds": NARROW}),
        ({"bounds": NARROW}, {}),
        ({"bounds": ELSEWHERE}, {}),
        ({"bounds": bounds()}, {"bounds": bounds(ONE)}),
        ({"bounds": bounds(TWO)}, {"bounds": bounds(ONE)}),
        ({"bounds": bounds("x")}, {"bounds": bounds(ONE)}),
        ({"bounds": None}, {}),
        ({"bounds": {"scope": 1, "resource": []}}, {}),
        ({"bounds": {"scope": "", "resource": [1]}}, {}),
        ({"exp": NOW + 400}, {}),
        ({"exp": NOW + 10}, {"exp": NOW + 10}),
        ({"exp": "soon"}, {}),
    ],
)
async def test_refuses_receipts_that_do_not_fit(
    gateway: FakeGateway, newer: dict[str, Any], older: dict[str, Any]
) -> None:
    with pytest.raises(InvalidCall, match="receipt"):
        await gateway.verifier().verify(token(gateway, newer, older), MESSAGE)


async def test_a_tool_with_its_arguments_lies_within_the_tool(gateway: FakeGateway) -> None:
    exact = [ONE[0] | {"arguments_digest": "sha-256:x"}]
    good = token(gateway, {"bounds": bounds(exact)}, {"bounds": bounds(ONE)})
    assert (await gateway.verifier().verify(good, MESSAGE)).tool == "close_ticket"
    freed = token(gateway, {"bounds": bounds(ONE)}, {"bounds": bounds(exact)})
    with pytest.raises(InvalidCall, match="allows more"):
        await gateway.verifier().verify(freed, MESSAGE)


async def test_refuses_receipts_that_are_no_receipts_of_the_gateway(gateway: FakeGateway) -> None:
    for bad in (
        token(gateway, typ="at+jwt"),
        token(gateway, actor_receipts=["x", "y"]),
        token(gateway, actor_receipts="x"),
        token(gateway, actor_receipts=[1]),
        token(gateway, actor_receipts=[], actor_receipts_complete=True),
        token(gateway, actor_receipts_complete="yes"),
        token(gateway, actor_receipts=["a.b.c"] * 3),
    ):
        with pytest.raises(InvalidCall):
            await gateway.verifier().verify(bad, MESSAGE)
    good = token(gateway)
    head, body, signature = gateway.sign(receipt_claims("coder")).split(".")
    forged = ".".join((head, body, signature[::-1]))
    with pytest.raises(InvalidCall):
        await gateway.verifier().verify(token(gateway, actor_receipts=[forged]), MESSAGE)
    assert (await gateway.verifier().verify(good, MESSAGE)).tool == "close_ticket"
