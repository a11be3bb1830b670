"""One proof against one request, key and all; the attacks are in tests/attacks/test_dpop.py."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from agentgw.errors import InvalidProof
from agentgw.identity import jose
from agentgw.identity.dpop import Nonces, ProofVerifier
from tests.dpop import Prover
from tests.identity.forge import NOW, rsa_key, sign

pytestmark = pytest.mark.anyio
URL = "https://gw.example.com/mcp"
TOKEN = "the.token.itself"
KEY = bytes(range(32))


class Once:
    """A replay store of one process."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()

    async def once(self, mark: bytes, iat: int) -> bool:
        new = mark not in self.seen
        self.seen.add(mark)
        return new


def verifier(nonces: Nonces | None = None) -> ProofVerifier:
    return ProofVerifier(Once(), 60, nonces)


async def check(by: ProofVerifier, proof: str, now: float = NOW, **expected: Any) -> str:
    return await by.verify(
        [proof.encode()], method="POST", url=URL, now=now, token=TOKEN.encode(), **expected
    )


KEYS: dict[str, Any] = {
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
}


@pytest.mark.parametrize("alg", jose.ALGORITHMS)
async def test_takes_every_algorithm_it_lists_and_gives_the_keys_thumbprint(alg: str) -> None:
    kind = "EdDSA" if alg == "Ed25519" else alg
    prover = Prover(KEYS.get(alg, rsa_key()), kind, NOW)
    header = {"alg": alg, "typ": "dpop+jwt", "jwk": prover.jwk}
    claims = json.dumps(prover.claims("POST", URL, TOKEN)).encode()
    proof = sign(prover.key, claims, header, kind).decode()
    assert await check(verifier(), proof) == prover.jkt


async def test_a_proof_passes_once() -> None:
    by, prover = verifier(), Prover(now=NOW)
    proof = prover.proof("POST", URL, TOKEN)
    assert await check(by, proof, jkt=prover.jkt)
    with pytest.raises(InvalidProof, match="used before"):
        await check(by, proof)
    assert await check(by, prover.proof("POST", URL, TOKEN))


async def test_one_clients_jti_is_not_anothers() -> None:
    by = verifier()
    for prover in (Prover(now=NOW), Prover(now=NOW)):
        assert await check(by, prover.proof("POST", URL, TOKEN, jti="same")) == prover.jkt


async def test_a_proof_that_is_refused_is_not_used_up() -> None:
    by, prover = verifier(), Prover(now=NOW)
    proof = prover.proof("POST", URL, TOKEN)
    with pytest.raises(InvalidProof, match="another key") as refused:
        await check(by, proof, jkt=Prover().jkt)
    assert refused.value.error == "invalid_token"
    assert await check(by, proof, jkt=prover.jkt)


async def test_a_nonce_of_ours_is_demanded_where_nonces_are() -> None:
    nonces = Nonces(KEY, 300)
    by, prover = verifier(nonces), Prover(now=NOW)
    for nonce in (None, "", "mine", Nonces(bytes(32), 300).current(NOW), nonces.current(NOW - 601)):
        with pytest.raises(InvalidProof, match="nonce") as refused:
            await check(by, prover.proof("POST", URL, TOKEN, nonce=nonce))
        assert refused.value.error == "use_dpop_nonce"
    for nonce in (nonces.current(NOW), nonces.current(NOW - 300)):
        assert await check(by, prover.proof("POST", URL, TOKEN, nonce=nonce))


def test_nonces_of_two_workers_are_the_same_and_change_with_time() -> None:
    here, there = Nonces(KEY, 60), Nonces(KEY, 60)
    assert here.current(NOW) == there.current(NOW)
    assert there.is_good(here.current(NOW), NOW + 60)
    assert not there.is_good(here.current(NOW), NOW + 120)
    assert here.current(NOW) != here.current(NOW + 60)
    assert not here.is_good("é", NOW)
