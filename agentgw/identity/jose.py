"""The strict decoder that stands around PyJWT: compact JWS only, one reading of every byte.

PyJWT looks at signatures here and at nothing else; its own decoding accepts padded parts, duplicate
members, any `typ` and key-carrying headers (RFC 8725 sections 2 and 3 say why none of that may pass).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jwt.algorithms import get_default_algorithms

from agentgw.core.canonical import b64url
from agentgw.errors import InvalidToken
from agentgw.identity.jwk import VerifyKey

TOKEN_LIMIT = 16 * 1024
DEPTH_LIMIT = 24
DIGITS_LIMIT = 20
INTEGERS = range(-(2**63), 2**64)
"""What fits 64 bits: a claim beyond that could be repeated in no token of ours."""

KID_LIMIT = 200

ALGORITHMS = (
    "ES256", "ES384", "ES512", "EdDSA", "Ed25519",
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
)  # fmt: skip
"""The asymmetric JWS algorithms we verify (RFC 7518 section 3.1, RFC 8037, RFC 9864)."""

FORBIDDEN_HEADERS = ("crit", "b64", "zip", "jku", "jwk", "x5u", "x5c")
"""Header members that would let a token choose its own key, encoding or extension (RFC 8725 3.10)."""

_SIGNERS = get_default_algorithms()
_SIGNERS["Ed25519"] = _SIGNERS["EdDSA"]
# Possessive, and content with an unfinished string: no input makes either pattern look twice.
_NO_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*+"?|[^"\[\]{}]++', re.DOTALL)
_B64TOKEN = re.compile(rb"[A-Za-z0-9\-._~+/]++=*+")


@dataclass(frozen=True, slots=True)
class Compact:
    """A compact JWS taken apart, its header judged, its signature not yet.

    `typ` is lower case without `application/` (RFC 7515 section 4.1.9) or None.
    """

    header: Mapping[str, Any]
    alg: str
    kid: str | None
    typ: str | None
    payload: bytes
    signing_input: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Unverified(Compact):
    """A JWT whose claims were read but whose signature was not looked at: believe nothing of it."""

    claims: Mapping[str, Any]

    @property
    def signed_hash(self) -> str:
        """`sha-256:` + base64url of what is signed, which stays when a signature is rewritten."""
        return "sha-256:" + b64url(hashlib.sha256(self.signing_input).digest())


def may_be_jwt(token: bytes) -> bool:
    """Whether `token` looks like a compact JWS; what does not is a string only its issuer can read."""
    return token.count(b".") == 2 and token.startswith(b"ey")


def check_opaque(token: bytes, limit: int = TOKEN_LIMIT) -> None:
    """Refuse what is no `b64token` (RFC 6750 section 2.1) of at most `limit` bytes. Raises InvalidToken."""
    if len(token) > limit:
        raise InvalidToken(f"the token is larger than {limit} bytes")
    if not _B64TOKEN.fullmatch(token):
        raise InvalidToken("the token holds characters that no bearer token has")


def split(
    token: str | bytes,
    limit: int = TOKEN_LIMIT,
    depth: int = DEPTH_LIMIT,
    *,
    embeds_key: bool = False,
) -> Unverified:
    """Take a JWT apart strictly, without looking at its signature (RFC 7519 section 7.2).

    `limit` is in bytes of the whole token, `depth` counts nested arrays and objects of the claims.
    `embeds_key` lets a `jwk` stand in the header, for DPoP proofs only. Raises InvalidToken.
    """
    part = split_compact(token, limit, embeds_key=embeds_key)
    claims = strict_json(part.payload, depth, "claims")
    if not isinstance(claims, dict):
        raise InvalidToken("the token's claims are not a JSON object")
    return Unverified(
        part.header, part.alg, part.kid, part.typ, part.payload, part.signing_input,
        part.signature, claims,
    )  # fmt: skip


def split_compact(
    token: str | bytes, limit: int = TOKEN_LIMIT, *, embeds_key: bool = False
) -> Compact:
    """Take a compact JWS apart, whatever its payload (RFC 7515 section 5.2). Raises InvalidToken."""
    if len(token) > limit:
        raise InvalidToken(f"the token is larger than {limit} bytes")
    try:
        raw = token.encode("ascii") if isinstance(token, str) else bytes(token)
    except UnicodeEncodeError:
        raise InvalidToken("the token holds characters outside ASCII") from None
    parts = raw.split(b".")
    if len(parts) != 3:
        raise InvalidToken("the token does not have the three parts of a compact JWS")
    header = strict_json(_decode(parts[0], "header"), 4, "header")
    if not isinstance(header, dict):
        raise InvalidToken("the token's header is not a JSON object")
    payload, signature = _decode(parts[1], "payload"), _decode(parts[2], "signature")
    alg, kid, typ = _judge_header(header, embeds_key)
    if not signature:
        raise InvalidToken("the token is not signed")
    return Compact(header, alg, kid, typ, payload, parts[0] + b"." + parts[1], signature)


def _judge_header(
    header: Mapping[str, Any], embeds_key: bool
) -> tuple[str, str | None, str | None]:
    alg, kid, typ = header.get("alg"), header.get("kid"), header.get("typ")
    if not isinstance(alg, str) or alg not in ALGORITHMS:
        raise InvalidToken("the token's alg is not an asymmetric signature algorithm we accept")
    for name in FORBIDDEN_HEADERS:
        if name in header and not (embeds_key and name == "jwk"):
            raise InvalidToken(f"the token's header carries {name}, which we never honour")
    if "kid" in header and not (
        isinstance(kid, str) and 0 < len(kid) <= KID_LIMIT and kid.isascii() and kid.isprintable()
    ):
        raise InvalidToken(f"the token's kid is not 1 to {KID_LIMIT} printable ASCII characters")
    if "typ" in header:
        if not isinstance(typ, str):
            raise InvalidToken("the token's typ header is not a string")
        typ = typ.lower().removeprefix("application/")
    return alg, kid, typ


def verify(token: Compact, key: VerifyKey) -> None:
    """Check the signature of `token` under `key`; the algorithm is the key's, never the token's word.

    Raises InvalidToken where alg and key do not belong together (RFC 8725 section 3.1), the signature
    does not have the exact raw length of its algorithm, or does not hold.
    """
    if token.alg not in key.algorithms:
        raise InvalidToken("the token's alg is not that of the key it names")
    if len(token.signature) != key.signature_length:
        raise BadSignature("the token's signature does not have the length its algorithm demands")
    if not _SIGNERS[token.alg].verify(token.signing_input, key.key, token.signature):
        raise BadSignature("the token's signature does not hold")


class BadSignature(InvalidToken):
    """The one failure that will not mend itself, so it may be remembered for a moment."""


def _decode(part: bytes, name: str) -> bytes:
    """Canonical unpadded base64url (RFC 7515 section 2), so one token has one spelling."""
    try:
        data = base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))
    except (binascii.Error, ValueError):
        raise InvalidToken(f"the token's {name} is not base64url") from None
    if base64.urlsafe_b64encode(data).rstrip(b"=") != part:
        raise InvalidToken(f"the token's {name} is not canonical unpadded base64url")
    return data


def strict_json(data: bytes, depth: int, what: str) -> Any:
    """Parse UTF-8 JSON that every parser reads alike (RFC 8725 section 2.4, RFC 7493).

    Refused: other encodings, a byte order mark, duplicate members, NaN and Infinity, numbers that
    overflow, integers beyond 64 bits, lone surrogates, more than `depth` levels. Raises InvalidToken.
    """
    try:
        text = data.decode("utf-8")
        _check_depth(text, depth)
        value = _DECODER.decode(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        detail = error.args[0] if isinstance(error, _Unacceptable) else "it is not UTF-8 JSON"
        raise InvalidToken(f"the token's {what} cannot be read: {detail}") from None
    return value


class _Unacceptable(ValueError):
    pass


def _check_depth(text: str, limit: int) -> None:
    if text.count("[") + text.count("{") <= limit:
        return
    level = 0
    for mark in _NO_BRACKETS.sub("", text):
        if mark in "[{":
            level += 1
            if level > limit:
                raise _Unacceptable(f"it is nested deeper than {limit} levels")
        else:
            level -= 1


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _Unacceptable("a member stands twice")
    return members


def _integer(digits: str) -> int:
    # The length comes first: reading many digits takes long.
    if len(digits.lstrip("-")) > DIGITS_LIMIT or (value := int(digits)) not in INTEGERS:
        raise _Unacceptable("an integer does not fit 64 bits")
    return value


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Unacceptable("a number is not finite")
    return value


def _constant(_: str) -> Any:
    raise _Unacceptable("a number is not finite")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=_integer, parse_float=_float, parse_constant=_constant
)
