"""RFC 8785 (JSON Canonicalization Scheme) and the digests taken over it."""

from __future__ import annotations

import hashlib
import json
from binascii import b2a_base64
from typing import Any

MAX_SAFE_INTEGER = 2**53 - 1

_URL_SAFE = bytes.maketrans(b"+/", b"-_")


class NotCanonical(ValueError):
    """A value RFC 8785 cannot express: an integer beyond 2^53-1, a lone surrogate, a non-finite number."""


def b64url(data: bytes) -> str:
    """Unpadded base64url (RFC 7515 section 2)."""
    return b2a_base64(data, newline=False).translate(_URL_SAFE).rstrip(b"=").decode("ascii")


def b64url_bytes(data: bytes) -> bytes:
    """The same as ASCII bytes: a segment of a compact JWS."""
    return b2a_base64(data, newline=False).translate(_URL_SAFE).rstrip(b"=")


def digest(data: bytes) -> str:
    """`sha-256:` + unpadded base64url of SHA-256 over `data`."""
    return "sha-256:" + b64url(hashlib.sha256(data).digest())


def canonical_json(value: Any) -> bytes:
    """The RFC 8785 bytes of a parsed JSON value. Raises NotCanonical."""
    try:
        if _is_plain(value):
            text = _ENCODE(value)
        else:
            text = _serialise(value)
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise NotCanonical("a string holds a lone surrogate") from None


_ENCODE = json.JSONEncoder(
    ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False
).encode


def _is_plain(value: Any) -> bool:
    """True where Python's own sorted encoder already writes RFC 8785: no float, only ASCII keys."""
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return True
    if kind is int:
        _check_integer(value)
        return True
    if kind is dict:
        return all(key.isascii() and _is_plain(item) for key, item in value.items())
    if kind is list:
        return all(_is_plain(item) for item in value)
    return False


def _check_integer(value: int) -> None:
    if not -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER:
        raise NotCanonical("an integer lies beyond 2^53-1")


def _serialise(value: Any) -> str:
    kind = type(value)
    if kind is float:
        return _number(value)
    if kind is str or value is None or kind is bool:
        return _ENCODE(value)
    if kind is int:
        _check_integer(value)
        return str(value)
    if kind is list:
        return f"[{','.join(map(_serialise, value))}]"
    if kind is dict:
        members = sorted(value.items(), key=lambda member: _utf16(member[0]))
        body = ",".join(f"{_ENCODE(key)}:{_serialise(item)}" for key, item in members)
        return f"{{{body}}}"
    raise NotCanonical(f"{kind.__name__} is no JSON value")


def _utf16(key: str) -> bytes:
    return key.encode("utf-16-be")


def _number(value: float) -> str:
    """ECMAScript's Number::toString (ECMA-262 section 6.1.6.1.20), which RFC 8785 section 3.2.2.3 demands."""
    text = repr(value)
    if "e" not in text and "n" not in text:  # between 1e-4 and 1e16, as ECMAScript writes it too
        whole = text.removesuffix(".0")
        return "0" if whole == "-0" else whole
    if value - value != 0:
        raise NotCanonical("a number is not finite")
    sign = "-" if value < 0 else ""
    mantissa, _, exponent = f"{abs(value)!r}".partition("e")
    whole, _, fraction = mantissa.partition(".")
    fraction = "" if fraction == "0" else fraction
    point = len(whole) + int(exponent or 0)
    digits = (whole + fraction).lstrip("0")
    point -= len(whole + fraction) - len(digits)
    digits = digits.rstrip("0")
    if 0 < point <= 21:
        if len(digits) <= point:
            return sign + digits + "0" * (point - len(digits))
        return sign + digits[:point] + "." + digits[point:]
    if -6 < point <= 0:
        return sign + "0." + "0" * -point + digits
    power = point - 1
    tail = f"e{'+' if power > 0 else '-'}{abs(power)}"
    return sign + digits[0] + ("." + digits[1:] if len(digits) > 1 else "") + tail
