"""The JWS algorithms our tokens are signed with: their keys, JWKs and signatures (RFC 7518, RFC 8037)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from agentgw.core.canonical import b64url, canonical_json

ES256, EDDSA, RS256 = "ES256", "EdDSA", "RS256"
ALGORITHMS = (ES256, EDDSA, RS256)

RSA_BITS = 3072
"""128 bits of strength, as the other two have (NIST SP 800-57 part 1, table 2)."""

_ECDSA = ec.ECDSA(SHA256())
_PKCS1, _SHA256 = PKCS1v15(), SHA256()

PrivateKey = ec.EllipticCurvePrivateKey | Ed25519PrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | Ed25519PublicKey | rsa.RSAPublicKey
Sign = Callable[[bytes], bytes]
"""From the signing input to the raw signature of RFC 7515; blocks for as long as it takes."""


@dataclass(frozen=True, slots=True)
class TokenKey:
    """A key of ours: `kid` is its RFC 7638 thumbprint, `created` and `retired` are Unix seconds.

    `sign` is None where the private half is not kept any more. `pool` is set where `sign` waits for a
    device: no event loop should call it but there.
    """

    kid: str
    alg: str
    public: PublicKey
    created: int
    retired: int | None = None
    sign: Sign | None = field(default=None, repr=False)
    pool: Executor | None = field(default=None, repr=False)

    def jwk(self) -> dict[str, Any]:
        """The public key as a JWK (RFC 7517), bound to its one use and algorithm."""
        return {**self.public_members(), "kid": self.kid, "use": "sig", "alg": self.alg}

    def public_members(self) -> dict[str, str]:
        """The public key as a JWK and nothing more."""
        return _public_members(self.public)


def generate(alg: str) -> PrivateKey:
    """A fresh private key for `alg`; an RSA key takes about a tenth of a second."""
    if alg == EDDSA:
        return Ed25519PrivateKey.generate()
    if alg == RS256:
        return rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
    return ec.generate_private_key(ec.SECP256R1())


def kid_of(public: PublicKey) -> str:
    """The RFC 7638 thumbprint of a public key."""
    return b64url(hashlib.sha256(canonical_json(_public_members(public))).digest())


def check_fits(alg: str, public: object) -> PublicKey:
    """`public` itself, where it is a key for `alg`. Raises ValueError where it is not."""
    if alg == ES256 and isinstance(public, ec.EllipticCurvePublicKey):
        if public.curve.name == "secp256r1":
            return public
    elif alg == EDDSA and isinstance(public, Ed25519PublicKey):
        return public
    elif alg == RS256 and isinstance(public, rsa.RSAPublicKey) and public.key_size >= 2048:
        return public
    raise ValueError(f"the key is none for {alg}")


def signer(private: PrivateKey) -> Sign:
    """What signs with a private key, by the one algorithm of its type (RFC 7518 section 3, RFC 8037)."""
    if isinstance(private, Ed25519PrivateKey):
        return private.sign
    if isinstance(private, rsa.RSAPrivateKey):
        return lambda data: private.sign(data, _PKCS1, _SHA256)

    def sign(data: bytes) -> bytes:
        r, s = decode_dss_signature(private.sign(data, _ECDSA))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    return sign


def _public_members(public: PublicKey) -> dict[str, str]:
    """The members RFC 7638 section 3.2 (RFC 8037 section 2 for OKP) takes a thumbprint over."""
    if isinstance(public, Ed25519PublicKey):
        return {"kty": "OKP", "crv": "Ed25519", "x": b64url(public.public_bytes_raw())}
    if isinstance(public, rsa.RSAPublicKey):
        numbers = public.public_numbers()
        return {"kty": "RSA", "n": _unsigned(numbers.n), "e": _unsigned(numbers.e)}
    point = public.public_numbers()
    return {
        "kty": "EC",
        "crv": "P-256",
        "x": b64url(point.x.to_bytes(32, "big")),
        "y": b64url(point.y.to_bytes(32, "big")),
    }


def _unsigned(number: int) -> str:
    """Base64urlUInt (RFC 7518 section 2)."""
    return b64url(number.to_bytes((number.bit_length() + 7) // 8, "big"))
