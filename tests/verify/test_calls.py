from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from agentgw.core.canonical import b64url
from agentgw.core.principal import Hop
from agentgw.verify import InvalidCall
from tests.verify.gateway import CODER, GATEWAY, MESSAGE, NOW, TICKETS, TOOL, FakeGateway

pytestmark = pytest.mark.anyio


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[FakeGateway]:
    made = FakeGateway(tmp_path)
    async with made.client:
        yield made


async def refusal(gateway: FakeGateway, token: str, message: Any = None, **more: Any) -> str:
    with pytest.raises(InvalidCall) as caught:
        await gateway.verifier(**more).verify(token, MESSAGE if message is None else message)
    assert token[:20] not in caught.value.reason or not token[:20]
    return caught.value.reason


async def test_tells_who_calls_for_whom_and_what(gateway: FakeGateway) -> None:
    call = await gateway.verifier(tools={"close_ticket": TOOL}).verify(gateway.token(), MESSAGE)
    assert (call.subject, call.agent, call.prior_agents) == (
        "acme|alice",
        f"{GATEWAY}/a2a/coder",
        (f"{GATEWAY}/a2a/planner",),
    )
    assert (call.method, call.tool, call.identifier) == (
        "tools/call", "close_ticket", "close_ticket",
    )  # fmt: skip
    assert (call.scope, call.txn, call.jti, call.evidence) == (
        frozenset({"tickets.write"}), "t-1", "j-1", "exchange",
    )  # fmt: skip


async def test_reads_the_message_from_its_bytes_too(gateway: FakeGateway) -> None:
    call = await gateway.verifier().verify(gateway.token(), json.dumps(MESSAGE).encode())
    assert call.tool == "close_ticket"


async def test_the_agent_is_the_first_hop_that_is_not_the_gateway(gateway: FakeGateway) -> None:
    front = replace(CODER, chain=(Hop(GATEWAY, None, "exchange"), *CODER.chain))
    call = await gateway.verifier().verify(gateway.token(caller=front), MESSAGE)
    assert (call.agent, call.prior_agents) == (
        f"{GATEWAY}/a2a/coder", (f"{GATEWAY}/a2a/planner",),
    )  # fmt: skip


async def test_the_gateway_for_itself_is_no_agent(gateway: FakeGateway) -> None:
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    call = await gateway.verifier().verify(gateway.token(message, caller=None), message)
    assert (call.subject, call.agent, call.tool) == (GATEWAY, None, None)


async def test_a_token_works_once(gateway: FakeGateway) -> None:
    verifier, token = gateway.verifier(), gateway.token()
    await verifier.verify(token, MESSAGE)
    with pytest.raises(InvalidCall, match="used before"):
        await verifier.verify(token, MESSAGE)


@pytest.mark.parametrize(
    "message",
    [
        MESSAGE | {"method": "tools/list"},
        MESSAGE | {"params": {"name": "open_ticket", "arguments": {"id": 42, "reason": "solved"}}},
        MESSAGE | {"params": {"name": "close_ticket", "arguments": {"id": 43, "reason": "solved"}}},
        MESSAGE | {"params": {"name": "close_ticket", "arguments": {"id": 42}}},
        MESSAGE | {"params": MESSAGE["params"] | {"task": {}}},
        MESSAGE | {"params": None},
        {"jsonrpc": "2.0", "id": 7, "result": {}},
    ],
)
async def test_refuses_another_message(gateway: FakeGateway, message: dict[str, Any]) -> None:
    assert "made for" in await refusal(gateway, gateway.token(), message)


@pytest.mark.parametrize("message", [{}, {"id": None}])
async def test_refuses_a_tool_call_that_is_no_request(
    gateway: FakeGateway, message: dict[str, Any]
) -> None:
    bare = {name: MESSAGE[name] for name in ("jsonrpc", "method", "params")}
    assert "without id" in await refusal(gateway, gateway.token(), bare | message)


async def test_refuses_a_body_nested_deeper_than_64_levels(gateway: FakeGateway) -> None:
    for levels, refused in ((63, False), (64, True)):
        nested: Any = "x"
        for _ in range(levels - 1):
            nested = [nested]
        message = MESSAGE | {"params": {"name": "close_ticket", "arguments": nested}}
        body = json.dumps(message).encode()
        if refused:
            assert "deeper than 64" in await refusal(gateway, gateway.token(message), body)
        else:
            await gateway.verifier().verify(gateway.token(message), body)


async def test_a_restarted_memory_refuses_what_it_cannot_remember(gateway: FakeGateway) -> None:
    token, fresh = gateway.token(), gateway.token()
    gateway.clock.now += 6
    assert "older than" in await refusal(gateway, token)
    gateway.clock.now -= 1
    await gateway.verifier().verify(fresh, MESSAGE)


async def test_a_store_that_remembers_takes_tokens_from_before_its_start(
    gateway: FakeGateway,
) -> None:
    class Remembering:
        async def once(self, jti: str, exp: int) -> bool:
            return True

    token = gateway.token()
    gateway.clock.now += 30
    await gateway.verifier(replay=Remembering()).verify(token, MESSAGE)


async def test_meta_and_id_may_change_on_the_way(gateway: FakeGateway) -> None:
    params = {name: item for name, item in MESSAGE["params"].items() if name != "_meta"}
    await gateway.verifier().verify(gateway.token(), MESSAGE | {"id": "x", "params": params})


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://evil.example.com"},
        {"iss": f"{GATEWAY}/"},
        {"aud": [TICKETS]},
        {"aud": f"{TICKETS}/"},
        {"aud": "https://other.example.com/mcp"},
        {"aud": None},
        {"client_id": "planner"},
        {"exp": NOW - 5},
        {"exp": None},
        {"exp": str(NOW + 60)},
        {"nbf": NOW + 6},
        {"iat": NOW + 6},
        {"iat": None},
        {"sub": None},
        {"sub": 7},
        {"jti": None},
        {"jti": ""},
        {"txn": None},
        {"scope": ["tickets.write"]},
        {"act": None},
        {"act": {"iss": GATEWAY}},
        {"act": "coder"},
        {"act": {"sub": "a", "act": {"sub": 7}}},
        {"cnf": {"jkt": "x"}},
        {"authorization_details": None},
        {"authorization_details": []},
        {"authorization_details": {}},
        {"authorization_details": [7]},
    ],
)
async def test_refuses_wrong_claims(gateway: FakeGateway, changes: dict[str, Any]) -> None:
    claims = {
        name: value for name, value in (gateway.claims() | changes).items() if value is not None
    }
    assert await refusal(gateway, gateway.sign_raw(json.dumps(claims).encode()))


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "urn:agentgw:mcp-call:2"},
        {"locations": ["https://other.example.com/mcp"]},
        {"locations": [TICKETS, "https://other.example.com/mcp"]},
        {"locations": TICKETS},
        {"actions": ["tools/call", "tools/list"]},
        {"actions": []},
        {"identifier": "open_ticket"},
        {"identifier": None},
        {"params_digest": None},
        {"params_digest": "sha-256:x"},
        {"max_uses": 2},
    ],
)
async def test_refuses_wrong_details(gateway: FakeGateway, changes: dict[str, Any]) -> None:
    claims = gateway.claims()
    claims["authorization_details"][0] |= changes
    assert await refusal(gateway, gateway.sign(claims))


async def test_refuses_two_details(gateway: FakeGateway) -> None:
    claims = gateway.claims()
    claims["authorization_details"] *= 2
    assert "exactly one" in await refusal(gateway, gateway.sign(claims))


async def test_forgives_five_seconds_of_clock(gateway: FakeGateway) -> None:
    verifier = gateway.verifier()
    for shift in (-5, 64):
        gateway.clock.now = NOW + shift
        await verifier.verify(gateway.token(), MESSAGE)
    for shift in (-6, 65):
        gateway.clock.now = NOW + shift
        assert await refusal(gateway, gateway.token())


async def test_compares_the_definition_where_tools_are_given(gateway: FakeGateway) -> None:
    changed = {"close_ticket": TOOL | {"description": "now deletes all"}}
    assert "definition" in await refusal(gateway, gateway.token(), tools=changed)
    assert "definition" in await refusal(gateway, gateway.token(), tools={})


@pytest.mark.parametrize("typ", ["dpop+jwt", "logout+jwt", ""])
async def test_refuses_another_typ(gateway: FakeGateway, typ: str) -> None:
    assert "typ" in await refusal(gateway, gateway.sign(gateway.claims(), typ))


async def test_refuses_unsigned_and_confused_algorithms(gateway: FakeGateway) -> None:
    kid = gateway.keyring.current.kid
    body = gateway.token().split(".")[1]
    for alg in ("none", "nOnE", "HS256", "RS256", "ES384"):
        head = b64url(json.dumps({"alg": alg, "typ": "at+jwt", "kid": kid}).encode())
        assert "kid and alg" in await refusal(gateway, f"{head}.{body}.{'A' * 86}")
        assert await refusal(gateway, f"{head}.{body}.")


async def test_refuses_a_signature_of_another_key(gateway: FakeGateway) -> None:
    token = jwt.encode(
        gateway.claims(),
        generate_private_key(SECP256R1()),
        "ES256",
        headers={"kid": gateway.keyring.current.kid, "typ": "at+jwt"},
    )
    assert "signature" in await refusal(gateway, token)


@pytest.mark.parametrize("name", ["crit", "jwk", "jku", "x5u", "x5c", "zip", "b64"])
async def test_refuses_headers_that_bring_a_key(gateway: FakeGateway, name: str) -> None:
    key = gateway.keyring.current
    head = b64url(json.dumps({"alg": "ES256", "typ": "at+jwt", "kid": key.kid, name: "x"}).encode())
    _, body, signature = gateway.token().split(".")
    assert "header" in await refusal(gateway, f"{head}.{body}.{signature}")


async def test_a_token_has_one_spelling(gateway: FakeGateway) -> None:
    token = gateway.token()
    for other in (token + "==", token + "=", " " + token, token + "\n", token + ".", token[:-1]):
        assert await refusal(gateway, other)
    assert await refusal(gateway, "x" * 20_000)
    assert await refusal(gateway, "")


async def test_refuses_a_claim_that_stands_twice(gateway: FakeGateway) -> None:
    body = json.dumps(gateway.claims())[:-1] + ', "sub": "acme|bob"}'
    assert "twice" in await refusal(gateway, gateway.sign_raw(body.encode()))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b"\xff",
        b'{"method":"a","method":"b"}',
        b'{"params":{"x":NaN}}',
        b"[" * 9999,
    ],
)
async def test_bytes_that_are_no_message_are_the_callers_fault(
    gateway: FakeGateway, body: bytes
) -> None:
    with pytest.raises(InvalidCall) as caught:
        await gateway.verifier().verify(gateway.token(), body)
    assert caught.value.status == 400


async def test_a_replay_store_that_fails_lets_nothing_through(gateway: FakeGateway) -> None:
    class Broken:
        async def once(self, jti: str, exp: int) -> bool:
            raise ConnectionError

    assert "replay store" in await refusal(gateway, gateway.token(), replay=Broken())


def test_importing_it_pulls_in_no_other_part_of_the_gateway() -> None:
    code = (
        "import sys, agentgw.verify\n"
        "ours = sorted(m for m in sys.modules if m.startswith('agentgw.'))\n"
        "heavy = {'orjson','pydantic','sqlalchemy','starlette','typer','uvicorn','yaml','mcp',"
        "'celpy','uvloop','httptools'} & set(sys.modules)\n"
        "assert all(m.startswith('agentgw.verify') for m in ours), ours\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
