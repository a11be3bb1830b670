"""A key of ours used for an algorithm that is not its own, at our door and at a tool server's."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwt.algorithms import get_default_algorithms

from agentgw.core.canonical import b64url
from agentgw.sts.keys import ALGORITHMS, KeyRing
from agentgw.verify import InvalidCall
from tests.sts.sts_under_test import MCP, StsUnderTest, claims_of
from tests.verify.gateway import MESSAGE, FakeGateway

pytestmark = pytest.mark.anyio

Confusion = tuple[str, str, str, str]
"""The header's alg, whose kid it names, whose private key signs, and by which algorithm."""

PAIRS = [(one, other) for one in ALGORITHMS for other in ALGORITHMS if one != other]
CONFUSED: list[Confusion] = [
    *((one, other, one, one) for one, other in PAIRS),
    *((one, one, other, other) for one, other in PAIRS),
    *((one, other, other, other) for one, other in PAIRS),
    *((alg, "RS256", "RS256", alg) for alg in ("PS256", "RS384", "RS512")),
    ("RS256", "RS256", "RS256", "PS256"),
]


def signed(folder: Path, ring: KeyRing, claims: dict[str, Any], how: Confusion) -> str:
    """What somebody who holds all our private keys could sign."""
    alg, kid_of, key_of, by = how
    stored = json.loads((folder / "keys" / "tokens.json").read_text())["rings"][key_of]["current"]
    private = load_pem_private_key(stored["pem"].encode(), None)
    header = json.dumps({"alg": alg, "typ": "at+jwt", "kid": ring.signing[kid_of].kid})
    signing_input = f"{b64url(header.encode())}.{b64url(json.dumps(claims).encode())}"
    signature = get_default_algorithms()[by].sign(signing_input.encode(), private)
    return f"{signing_input}.{b64url(signature)}"


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[StsUnderTest]:
    made = StsUnderTest(tmp_path)
    made.keyring.need(ALGORITHMS)
    async with made:
        yield made


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[FakeGateway]:
    made = FakeGateway(tmp_path)
    made.keyring.need(ALGORITHMS)
    async with made.client:
        yield made


async def test_our_own_door_takes_each_key_for_its_own_algorithm_only(
    service: StsUnderTest, tmp_path: Path
) -> None:
    claims = claims_of(await service.token(service.idp_token(), MCP))
    for how in CONFUSED:
        token = signed(tmp_path, service.keyring, claims, how)
        answer = await service.exchange(token, MCP)
        assert answer.json()["error"] == "invalid_request", how
        assert "subject_token was refused" in answer.json()["error_description"], how
    for alg in ALGORITHMS:
        token = signed(tmp_path, service.keyring, claims, (alg, alg, alg, alg))
        assert (await service.exchange(token, MCP)).status_code == 200, alg


async def test_a_tool_server_takes_each_key_for_its_own_algorithm_only(
    gateway: FakeGateway, tmp_path: Path
) -> None:
    verifier = gateway.verifier()
    for how in CONFUSED:
        token = signed(tmp_path, gateway.keyring, gateway.claims(), how)
        with pytest.raises(InvalidCall, match=r"kid and alg|signature"):
            await verifier.verify(token, MESSAGE)
    for alg in ALGORITHMS:
        token = signed(tmp_path, gateway.keyring, gateway.claims(), (alg, alg, alg, alg))
        assert (await verifier.verify(token, MESSAGE)).subject == "acme|alice"


@pytest.mark.parametrize("alg", ALGORITHMS)
async def test_a_public_key_is_no_secret_to_sign_with(
    gateway: FakeGateway, tmp_path: Path, alg: str
) -> None:
    key = gateway.keyring.signing[alg]
    header = json.dumps({"alg": "HS256", "typ": "at+jwt", "kid": key.kid})
    signing_input = f"{b64url(header.encode())}.{b64url(json.dumps(gateway.claims()).encode())}"
    secret = json.dumps(key.jwk()).encode()
    mac = get_default_algorithms()["HS256"].sign(signing_input.encode(), secret)
    with pytest.raises(InvalidCall, match="kid and alg"):
        await gateway.verifier().verify(f"{signing_input}.{b64url(mac)}", MESSAGE)
