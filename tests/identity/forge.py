"""Keys and tokens for the tests of identity: an honest issuer's mint, and a forger's free hand."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm, get_default_algorithms

from agentgw.core.actor import AgentRules, ClientRule
from agentgw.core.claims import IssuerRules, map_audiences
from agentgw.core.principal import Hop, Issued, Subject
from agentgw.errors import InvalidToken
from agentgw.identity.jwk import VerifyKey, bind_key, read_jwk
from agentgw.identity.verifier import TokenVerifier

NOW = 1_795_400_000
US = "https://gw.example.com"
ACME = "https://idp.example.com/realms/acme"
OTHER = "https://idp.other.example"

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@cache
def ec_key(name: str = "acme") -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@cache
def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


@cache
def ed_key() -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


def jwk(key: PrivateKey, kid: str | None = "k1", **members: Any) -> dict[str, Any]:
    public = key.public_key()
    if isinstance(public, ec.EllipticCurvePublicKey):
        found = ECAlgorithm.to_jwk(public, as_dict=True)
    elif isinstance(public, rsa.RSAPublicKey):
        found = RSAAlgorithm.to_jwk(public, as_dict=True)
        found.pop("key_ops", None)
    else:
        found = OKPAlgorithm.to_jwk(public, as_dict=True)
    if kid is not None:
        found["kid"] = kid
    return {**found, **members}


def sign(
    key: Any, payload: bytes, header: Mapping[str, Any] | None = None, alg: str = "ES256"
) -> bytes:
    """A compact JWS over any bytes; `alg` signs, whatever the header says."""
    head = {"alg": alg, "kid": "k1", "typ": "at+jwt"} if header is None else header
    return sign_raw(key, json.dumps(head).encode(), payload, alg)


def sign_raw(key: Any, header: bytes, payload: bytes, alg: str = "ES256") -> bytes:
    message = f"{b64(header)}.{b64(payload)}".encode()
    return message + b"." + b64(get_default_algorithms()[alg].sign(message, key)).encode()


def acme_claims(**changes: Any) -> dict[str, Any]:
    """Claims of alice, signed in to planner at acme; a change to None takes the claim away."""
    claims = {
        "iss": ACME,
        "aud": [f"{US}/mcp", "account"],
        "sub": "alice",
        "azp": "planner",
        "typ": "Bearer",
        "scope": "tickets.read tickets.write",
        "groups": ["support"],
        "iat": NOW - 60,
        "exp": NOW + 840,
        "jti": "idp-7c1",
        **changes,
    }
    return {name: value for name, value in claims.items() if value is not None}


def acme_token(
    key: Any = None, header: Mapping[str, Any] | None = None, alg: str = "ES256", **changes: Any
) -> bytes:
    payload = json.dumps(acme_claims(**changes)).encode()
    return sign(ec_key() if key is None else key, payload, header, alg)


@dataclass
class FixedKeys:
    """A KeySource that holds what it was given and counts how often it was asked."""

    jwks: list[dict[str, Any]]
    asked: int = 0

    async def find(self, kid: str | None, alg: str) -> VerifyKey:
        self.asked += 1
        for key in map(read_jwk, self.jwks):
            if key.kid == kid and alg in key.algorithms:
                return key
        raise InvalidToken("unknown key")


@dataclass
class OwnBooks:
    """Our own keys and ledger, in memory."""

    issuer: str = US
    entries: dict[str, Issued] = field(default_factory=dict)

    def key(self, kid: str) -> VerifyKey | None:
        return bind_key(ec_key("own").public_key(), kid) if kid == "own-1" else None

    async def issued(self, jti: str) -> Issued | None:
        return self.entries.get(jti)


PLANNER = AgentRules("planner", f"{US}/a2a/planner", (ClientRule("acme", "planner", True),))
CODER = AgentRules("coder", f"{US}/a2a/coder", (ClientRule("acme", "coder"),), max_depth=3)


def acme_rules(**changes: Any) -> IssuerRules:
    return IssuerRules(
        **{
            "alias": "acme",
            "issuer": ACME,
            "audiences": map_audiences([f"{US}/mcp"], US),
            "tolerated_audiences": frozenset({"account"}),
            "groups_claim": "groups",
            **changes,
        }
    )


def other_rules(**changes: Any) -> IssuerRules:
    audiences = map_audiences([f"{US}/mcp"], US)
    return IssuerRules(**{"alias": "other", "issuer": OTHER, "audiences": audiences, **changes})


def build(
    acme: IssuerRules | None = None,
    own: OwnBooks | None = None,
    agents: tuple[AgentRules, ...] = (PLANNER, CODER),
    keys: Mapping[str, Any] | None = None,
    **changes: Any,
) -> TokenVerifier:
    found = {"acme": FixedKeys([jwk(ec_key())]), "other": FixedKeys([jwk(ec_key("other"))])}
    return TokenVerifier(
        (acme or acme_rules(), other_rules()),
        agents,
        own or OwnBooks(),
        US,
        keys or found,
        **changes,
    )


def coder_entry(**changes: Any) -> Issued:
    """What the ledger keeps of the token that coder got in exchange for planner's hand-over."""
    return Issued(
        **{
            "jti": "j-coder",
            "kind": "gateway",
            "parent": "j-handover",
            "subject": Subject("acme", "alice", "acme|alice"),
            "groups": frozenset({"acme:group:support"}),
            "chain": (
                Hop(CODER.id, "coder", "exchange"),
                Hop(PLANNER.id, "planner", "client-auth"),
            ),
            "audience": f"{US}/mcp",
            "scopes": frozenset({"tickets.write"}),
            "txn": "t-01JD9YQK6T3E8V",
            "iat": NOW + 2,
            "exp": NOW + 300,
            "presenter": CODER.id,
            **changes,
        }
    )


def own_claims(entry: Issued, **changes: Any) -> dict[str, Any]:
    act: dict[str, Any] | None = None
    for hop in reversed(entry.chain):
        outer = {"iss": US, "sub": hop.id, "sub_profile": "ai_agent"}
        act = outer if act is None else {**outer, "act": act}
    claims = {
        "iss": US,
        "client_id": US,
        "aud": entry.audience,
        "sub": entry.subject.name,
        "act": act,
        "scope": " ".join(sorted(entry.scopes)),
        "iat": entry.iat,
        "nbf": entry.iat,
        "exp": entry.exp,
        "jti": entry.jti,
        "txn": entry.txn,
        **changes,
    }
    return {name: value for name, value in claims.items() if value is not None}


def own_token(entry: Issued, header: Mapping[str, Any] | None = None, **changes: Any) -> bytes:
    head = {"alg": "ES256", "kid": "own-1", "typ": "at+jwt"} if header is None else header
    return sign(ec_key("own"), json.dumps(own_claims(entry, **changes)).encode(), head)
