from __future__ import annotations

import asyncio
from pathlib import Path

import jwt
import pytest

from agentgw.sts.keys import KeyRing
from agentgw.sts.mint import Minter

GATEWAY = "https://gw.example.com"


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    return KeyRing(tmp_path)


def test_what_is_signed_verifies_with_another_implementation(ring: KeyRing) -> None:
    minter = Minter(ring, GATEWAY)
    claims = {"iss": GATEWAY, "sub": "acme|älice", "act": {"sub": "x"}}
    for _ in range(300):
        # r or s with leading zeros comes up in one signature of 128.
        token = minter.sign(claims)
        decoded = jwt.decode_complete(token, ring.current.public, ["ES256"])
        assert decoded["payload"] == claims
        assert len(decoded["signature"]) == 64
        assert decoded["header"] == {"alg": "ES256", "typ": "at+jwt", "kid": ring.current.kid}


@pytest.mark.parametrize("alg", ["EdDSA", "RS256"])
def test_other_algorithms_verify_with_another_implementation(tmp_path: Path, alg: str) -> None:
    ring = KeyRing(tmp_path, algorithms=["ES256", alg])
    claims = {"iss": GATEWAY, "sub": "acme|älice"}
    token = Minter(ring, GATEWAY).sign(claims, alg=alg)
    kid = jwt.get_unverified_header(token)["kid"]
    published = jwt.PyJWKSet.from_dict(ring.jwks())[kid]
    assert published.algorithm_name == alg
    assert jwt.decode(token, published, [alg]) == claims


def test_an_algorithm_without_a_key_signs_nothing(ring: KeyRing) -> None:
    with pytest.raises(ValueError, match="no key for RS256"):
        Minter(ring, GATEWAY).sign({"iss": GATEWAY}, alg="RS256")


def test_typ_may_be_jwt(ring: KeyRing) -> None:
    minter = Minter(ring, GATEWAY)
    assert jwt.get_unverified_header(minter.sign({"iss": GATEWAY}, "JWT"))["typ"] == "JWT"
    assert jwt.get_unverified_header(minter.sign({"iss": GATEWAY}))["typ"] == "at+jwt"


def test_refuses_to_sign_in_another_name(ring: KeyRing) -> None:
    with pytest.raises(ValueError, match="issuer"):
        Minter(ring, GATEWAY).sign({"iss": "https://idp.example.com"})


def test_a_changed_byte_does_not_verify(ring: KeyRing) -> None:
    head, body, signature = Minter(ring, GATEWAY).sign({"iss": GATEWAY}).split(b".")
    forged = b".".join((head, body[:-2] + b"AA", signature))
    with pytest.raises(jwt.InvalidTokenError):
        jwt.decode(forged, ring.current.public, ["ES256"])


@pytest.mark.anyio
async def test_what_is_asked_for_in_one_round_is_signed_in_the_next(ring: KeyRing) -> None:
    minter = Minter(ring, GATEWAY)
    asked = [minter.mint({"iss": GATEWAY, "jti": str(n)}) for n in range(20)]
    assert not asked[0].done()
    await asyncio.sleep(0)
    assert asked[0].done()
    tokens = [jwt.decode(await future, ring.current.public, ["ES256"]) for future in asked]
    assert [token["jti"] for token in tokens] == [str(n) for n in range(20)]


@pytest.mark.anyio
async def test_what_cannot_be_signed_spoils_only_itself(ring: KeyRing) -> None:
    minter = Minter(ring, GATEWAY)
    first, other = minter.mint({"iss": GATEWAY}), minter.mint({"iss": "https://idp.example.com"})
    unwritable = minter.mint({"iss": GATEWAY, "auth_time": 2**64})
    last = minter.mint({"iss": GATEWAY})
    given_up = minter.mint({"iss": GATEWAY})
    given_up.cancel()
    assert await first
    assert await last
    with pytest.raises(ValueError, match="issuer"):
        await other
    with pytest.raises(ValueError, match="cannot be written"):
        await unwritable
    assert given_up.cancelled()


@pytest.mark.anyio
async def test_slow_signatures_leave_the_loop_free_in_between(tmp_path: Path) -> None:
    minter = Minter(KeyRing(tmp_path, algorithms=["ES256", "RS256"]), GATEWAY)
    asked = [minter.mint({"iss": GATEWAY, "jti": str(n)}, alg="RS256") for n in range(100)]
    rounds = 0
    while not asked[-1].done():
        rounds += 1
        await asyncio.sleep(0)
    assert rounds > 5
    tokens = [await future for future in asked]
    assert len(set(tokens)) == 100
