"""The identity provider of a benchmark: one ES256 key, its JWK Set, and alice's token."""

from __future__ import annotations

import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

ALIAS = "idp"
CLIENT = "planner"
_LIFE_SECONDS = 4 * 3600


class Issuer:
    """Signs user tokens; the static upstream publishes its discovery document and keys."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())

    def jwks(self) -> str:
        """The JWK Set with the public key (RFC 7517 section 5)."""
        return json.dumps({"keys": [self.public_jwk()]})

    def public_jwk(self) -> dict[str, Any]:
        """The public key as a JWK, `kid` k1."""
        jwk: dict[str, Any] = jwt.algorithms.ECAlgorithm.to_jwk(
            self._key.public_key(), as_dict=True
        )
        return {**jwk, "kid": "k1", "alg": "ES256", "use": "sig"}

    def user_token(self, issuer: str, audience: str) -> str:
        """Alice's token for `audience`, issued to the agent's confidential client (about 530 bytes)."""
        now = int(time.time())
        claims = {
            "iss": issuer,
            "aud": [audience],
            "sub": "alice",
            "azp": CLIENT,
            "scope": "tickets.read tickets.write",
            "groups": ["support", "on-call", "billing"],
            "iat": now,
            "exp": now + _LIFE_SECONDS,
            "jti": "idp-7c1e2a94b0d34c5f",
            "acr": "urn:example:loa:2",
            "auth_time": now,
        }
        return jwt.encode(claims, self._key, "ES256", headers={"kid": "k1", "typ": "at+jwt"})
