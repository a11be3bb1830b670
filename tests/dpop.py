"""A DPoP client of its own, honest or not: it shares no code with the gateway (RFC 9449, RFC 7638)."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

WRITERS: dict[str, Any] = {"E": ECAlgorithm, "R": RSAAlgorithm, "P": RSAAlgorithm}
MEMBERS = {"EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x"), "RSA": ("e", "kty", "n")}


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@dataclass
class Prover:
    """Holds a key and makes proofs; `now` None is the real clock."""

    key: Any = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    alg: str = "ES256"
    now: float | None = None

    @property
    def jwk(self) -> dict[str, Any]:
        """The public key."""
        writer = OKPAlgorithm if self.alg == "EdDSA" else WRITERS[self.alg[0]]
        members: dict[str, Any] = writer.to_jwk(self.key.public_key(), as_dict=True)
        return {name: members[name] for name in MEMBERS[members["kty"]]}

    @property
    def private_jwk(self) -> dict[str, Any]:
        """The private key."""
        members: dict[str, Any] = ECAlgorithm.to_jwk(self.key, as_dict=True)
        return members

    @property
    def jkt(self) -> str:
        """The key's thumbprint."""
        text = json.dumps(self.jwk, sort_keys=True, separators=(",", ":"))
        return b64(hashlib.sha256(text.encode()).digest())

    @property
    def cnf(self) -> dict[str, str]:
        """The `cnf` of a token bound to the key."""
        return {"jkt": self.jkt}

    def claims(self, method: str, url: str, token: str | None, **changes: Any) -> dict[str, Any]:
        """The claims of a proof; a change to None takes a claim away."""
        base = {
            "htm": method,
            "htu": url,
            "iat": int(time.time() if self.now is None else self.now),
            "jti": secrets.token_urlsafe(16),
            "ath": None if token is None else b64(hashlib.sha256(token.encode()).digest()),
        }
        return {name: value for name, value in {**base, **changes}.items() if value is not None}

    def proof(
        self,
        method: str,
        url: str,
        token: str | None = None,
        header: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> str:
        """A proof for one request; `header` replaces members of its header."""
        head = {"typ": "dpop+jwt", "jwk": self.jwk, **(header or {})}
        claims = self.claims(method, url, token, **changes)
        return jwt.encode(claims, self.key, self.alg, headers=head)

    def headers(
        self, method: str, url: str, token: str, scheme: str = "DPoP", **changes: Any
    ) -> dict[str, str]:
        """The headers of a request with a bound token."""
        proof = self.proof(method, url, token, **changes)
        return {"Authorization": f"{scheme} {token}", "DPoP": proof}


def unsigned(header: Mapping[str, Any], claims: Mapping[str, Any], signature: bytes = b"") -> str:
    """A compact JWS with whatever stands in it."""
    parts = (json.dumps(header).encode(), json.dumps(claims).encode(), signature)
    return ".".join(map(b64, parts))
