"""The key that 32 secret bytes stand for."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from agentgw.sts.possession_key import possession_key


def test_one_secret_is_one_key_and_another_is_another() -> None:
    first, again, other = (possession_key(bytes([n]) * 32) for n in (1, 1, 2))
    assert first.kid == again.kid != other.kid
    assert first.public_members() == again.public_members()


def test_its_signatures_hold_under_its_public_half() -> None:
    key = possession_key(bytes(32))
    assert key.sign is not None and isinstance(key.public, ec.EllipticCurvePublicKey)
    signature = key.sign(b"data")
    halves = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
    key.public.verify(encode_dss_signature(*halves), b"data", ec.ECDSA(SHA256()))
