"""Proving oneself at a token endpoint by a key (`private_key_jwt`, RFC 7523): the gateway at another
authorization server, and `agentgw token exchange` at the gateway."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

LIFE = 60


@dataclass(frozen=True, slots=True)
class ClientKey:
    """A client's private key; `kid` is its name at the server. Read one with `read_client_key`."""

    key: Any = field(repr=False)
    alg: str
    kid: str | None = None


def read_client_key(pem: bytes, kid: str | None = None) -> ClientKey:
    """The key of a PEM file, unencrypted: P-256 (ES256), RSA from 2048 bits (RS256) or Ed25519 (EdDSA).

    Raises ValueError.
    """
    try:
        key = load_pem_private_key(pem, None)
    except (TypeError, ValueError, UnsupportedAlgorithm):
        raise ValueError("it holds no unencrypted private key in PEM") from None
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        return ClientKey(key, "ES256", kid)
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= 2048:
        return ClientKey(key, "RS256", kid)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return ClientKey(key, "EdDSA", kid)
    raise ValueError("its key is none of P-256, RSA from 2048 bits, Ed25519")


def client_assertion(key: ClientKey, client_id: str, audience: str, now: float, jti: str) -> str:
    """An assertion that its maker is `client_id`, for one use at `audience` within a minute.

    `now` is in Unix seconds, `typ` is that of RFC 7523bis.
    """
    claims = {
        "iss": client_id,
        "sub": client_id,
        "aud": audience,
        "iat": int(now),
        "exp": int(now) + LIFE,
        "jti": jti,
    }
    headers = {"typ": "client-authentication+jwt"}
    if key.kid is not None:
        headers["kid"] = key.kid
    return jwt.encode(claims, key.key, key.alg, headers=headers)
