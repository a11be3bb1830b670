"""The DPoP proof that comes with a token bound to the gateway's key (RFC 9449 section 4.3)."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import jwt
from jwt.exceptions import PyJWTError

ALGORITHMS = ("ES256", "EdDSA", "RS256")
WINDOW = 60
"""Seconds a proof's `iat` may lie before or after the clock here."""

PROOF_LIMIT = 8 * 1024

_MEMBERS = {"EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x"), "RSA": ("e", "kty", "n")}
_PORTS = {"http": 80, "https": 443}


class ProofFault(ValueError):
    """A proof that does not show what it should."""


def bound_key(claims: Mapping[str, Any]) -> str | None:
    """The thumbprint of the key a token is bound to, None where it is bound to none. Raises ProofFault."""
    if "cnf" not in claims:
        return None
    cnf = claims["cnf"]
    if not isinstance(cnf, dict) or cnf.keys() != {"jkt"} or not isinstance(cnf["jkt"], str):
        raise ProofFault("the token is bound to a key in a way that is not known here")
    return str(cnf["jkt"])


def check_proof(
    proof: str,
    header: Mapping[str, Any],
    claims: Mapping[str, Any],
    *,
    jkt: str,
    token: str,
    method: str,
    url: str,
    now: float,
) -> None:
    """Check a proof, taken apart into `header` and `claims`, for one request with `token`.

    That it is used once needs no memory: it holds for this token only, which is used once itself.
    Raises ProofFault.
    """
    jwk = _public_key(header)
    alg = header.get("alg")
    if header.get("typ") != "dpop+jwt" or alg not in ALGORITHMS:
        raise ProofFault("the proof's typ is not dpop+jwt, or its alg none we take")
    if _thumbprint(jwk) != jkt:
        raise ProofFault("the proof is by another key than the token's")
    try:
        key = jwt.PyJWK(jwk)
        if key.algorithm_name != alg:
            raise ProofFault("the proof's alg is not that of its key")
        jwt.decode_complete(proof, key, algorithms=[alg], options=_SIGNATURE_ONLY)
    except (PyJWTError, ValueError, TypeError, KeyError) as error:
        if isinstance(error, ProofFault):
            raise
        raise ProofFault("the proof's signature does not hold") from None
    if claims.get("htm") != method:
        raise ProofFault("the proof's htm is not the method of the request")
    if not isinstance(claims.get("htu"), str) or _normal(claims["htu"]) != _normal(url):
        raise ProofFault(f"the proof's htu is not {url}")
    if type(claims.get("iat")) is not int or abs(now - claims["iat"]) > WINDOW:
        raise ProofFault("the proof was not made just now")
    digest = hashlib.sha256(token.encode("ascii")).digest()
    if claims.get("ath") != base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii"):
        raise ProofFault("the proof's ath is not the hash of the token")


_SIGNATURE_ONLY: Any = {
    "verify_signature": True,
    **dict.fromkeys(
        ("verify_exp", "verify_nbf", "verify_iat", "verify_aud", "verify_iss", "verify_sub",
         "verify_jti"), False
    ),
}  # fmt: skip


def _public_key(header: Mapping[str, Any]) -> dict[str, str]:
    """The public members of the header's `jwk`, and nothing else of it."""
    jwk = header.get("jwk")
    kind = jwk.get("kty") if isinstance(jwk, dict) else None
    names = _MEMBERS.get(kind, ()) if isinstance(kind, str) else ()
    if not isinstance(jwk, dict) or not names or {"d", "k", "p", "q"} & jwk.keys():
        raise ProofFault("the proof's header holds no public key")
    if any(name in header for name in ("crit", "b64", "zip", "jku", "x5u", "x5c")):
        raise ProofFault("the proof's header names another key or an extension")
    members = {name: jwk.get(name) for name in names}
    if not all(isinstance(value, str) for value in members.values()):
        raise ProofFault("the proof's jwk is incomplete")
    return {name: str(value) for name, value in members.items()}


def _thumbprint(jwk: Mapping[str, str]) -> str:
    """RFC 7638, over members that are its own already."""
    text = json.dumps(dict(jwk), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


def _normal(url: str) -> tuple[str, str | None, int | None, str]:
    """What of a URL counts: scheme, host, port and path (RFC 3986 sections 6.2.2 and 6.2.3)."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "", None, None, url
    return parts.scheme, parts.hostname, port or _PORTS.get(parts.scheme), parts.path or "/"
