"""A SPIFFE trust domain of a test: its authority, its keys, its bundle and its SVIDs."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from tests.certificates import Issued, issue, uri

LEAF_USAGE = x509.KeyUsage(True, False, False, False, False, False, False, False, False)


class TrustDomain:
    """Issues SVIDs under its own root and JWT key `j1`; both may be replaced."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.root = issue(name, ca=True)
        self.kid = "j1"
        self.key = ec.generate_private_key(ec.SECP256R1())

    def id(self, path: str) -> str:
        return f"spiffe://{self.name}/{path}"

    def bundle(self, **members: Any) -> dict[str, Any]:
        """Its bundle document."""
        jwk = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self.key.public_key()))
        root = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self.root.key.public_key()))
        x5c = [base64.b64encode(self.root.der).decode()]
        keys = [
            {**root, "use": "x509-svid", "x5c": x5c},
            {**jwk, "use": "jwt-svid", "kid": self.kid},
        ]
        return {"keys": keys, "spiffe_sequence": 1, **members}

    def jwt_svid(self, path: str, audience: Any, now: float | None = None, **changes: Any) -> str:
        """A JWT-SVID; `changes` add, replace or (None) drop claims and the headers alg, kid, typ."""
        moment = int(time.time() if now is None else now)
        claims = {"sub": self.id(path), "aud": audience, "iat": moment, "exp": moment + 300}
        headers = {"kid": self.kid, "typ": "JWT"}
        for name, value in changes.items():
            (headers if name in headers else claims)[name] = value
        kept = {name: value for name, value in headers.items() if value is not None}
        claims = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(claims, self.key, "ES256", headers=kept)

    def x509_svid(self, path: str, **options: Any) -> Issued:
        """An X.509-SVID, as the authority of the domain issues it."""
        extensions = options.pop("extensions", (LEAF_USAGE,))
        return issue("", self.root, uri(self.id(path)), extensions=extensions, **options)
