"""What a DPoP proof must say (RFC 9449 section 4.3): rules over its claims, its signature already held.

A proof shows that whoever sends a request holds the key its token is bound to. It is made for one
request: method, target, moment, and the very token.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from agentgw.core.canonical import b64url, canonical_json
from agentgw.errors import InvalidProof

TYP = "dpop+jwt"
JTI_LIMIT = 256

_DEFAULT_PORTS = {"http": 80, "https": 443}
_THUMBPRINT_MEMBERS = {
    "EC": ("crv", "kty", "x", "y"),
    "OKP": ("crv", "kty", "x"),
    "RSA": ("e", "kty", "n"),
}
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]")


@dataclass(frozen=True, slots=True)
class ProofClaims:
    """What is left to judge of a proof once its claims hold: its `jti` is to be used once, its `nonce`
    to be one of ours. `iat` is in Unix seconds."""

    jti: str
    iat: int
    nonce: str | None


def thumbprint(jwk: Mapping[str, Any]) -> str:
    """The RFC 7638 SHA-256 thumbprint of a public EC, OKP or RSA key, base64url. Raises InvalidProof."""
    names = _THUMBPRINT_MEMBERS.get(jwk.get("kty", "")) if isinstance(jwk.get("kty"), str) else None
    members = {name: jwk.get(name) for name in names or ()}
    if not members or not all(isinstance(value, str) and value for value in members.values()):
        raise InvalidProof("the proof's jwk is no EC, OKP or RSA key")
    return b64url(hashlib.sha256(canonical_json(members)).digest())


def token_hash(token: bytes) -> str:
    """The `ath` of a token: base64url of the SHA-256 of its bytes (RFC 9449 section 4.2)."""
    return b64url(hashlib.sha256(token).digest())


def check_claims(
    claims: Mapping[str, Any],
    *,
    method: str,
    url: str,
    ath: str | None,
    now: float,
    window: int,
) -> ProofClaims:
    """Hold a proof against the request it came with: `method` and `url` as we know them.

    `ath` is the token's hash, None where no token goes along (the token endpoint). `window` is how
    many seconds the proof's `iat` may lie before or after `now`. Raises InvalidProof.
    """
    jti, iat, nonce = claims.get("jti"), claims.get("iat"), claims.get("nonce")
    if not isinstance(jti, str) or not 0 < len(jti) <= JTI_LIMIT:
        raise InvalidProof(f"the proof's jti is not 1 to {JTI_LIMIT} characters")
    if claims.get("htm") != method:
        raise InvalidProof("the proof's htm is not the method of the request")
    htu = claims.get("htu")
    if not isinstance(htu, str) or not is_same_target(htu, url):
        raise InvalidProof(f"the proof's htu is not {url}")
    if type(iat) is not int:
        raise InvalidProof("the proof's iat is not a whole number of seconds")
    if abs(now - iat) > window:
        raise InvalidProof(f"the proof's iat is more than {window} s away from the clock here")
    if ath is not None and claims.get("ath") != ath:
        raise InvalidProof("the proof's ath is not the hash of the token")
    if nonce is not None and not isinstance(nonce, str):
        raise InvalidProof("the proof's nonce is no string")
    _check_own_limits(claims, now)
    return ProofClaims(jti, iat, nonce)


def is_same_target(htu: str, url: str) -> bool:
    """Whether `htu` names `url`, query and fragment aside (RFC 9449 section 4.3).

    The case of scheme and host, a default port, an empty path and needless escapes make no difference
    (RFC 3986 sections 6.2.2 and 6.2.3); dot segments, which no client sends, do.
    """
    return htu == url or ((normal := _normal(htu)) is not None and normal == _normal(url))


def _normal(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or "@" in parts.netloc:
        return None
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        return None
    place = "" if port in (None, _DEFAULT_PORTS[parts.scheme]) else f":{port}"
    path = _ESCAPE.sub(_unescape, parts.path) or "/"
    return f"{parts.scheme}://{parts.hostname}{place}{path}"


def _unescape(escape: re.Match[str]) -> str:
    character = chr(int(escape[1], 16))
    return character if _UNRESERVED.fullmatch(character) else escape[0].upper()


def _check_own_limits(claims: Mapping[str, Any], now: float) -> None:
    """The proof's own `exp` and `nbf`, where its maker set them (RFC 7519 section 4.1)."""
    exp, nbf = claims.get("exp", now + 1), claims.get("nbf", now)
    if isinstance(exp, bool) or not isinstance(exp, int | float) or exp <= now:
        raise InvalidProof("the proof has expired")
    if isinstance(nbf, bool) or not isinstance(nbf, int | float) or nbf > now + 5:
        raise InvalidProof("the proof is not valid yet")
