from __future__ import annotations

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
