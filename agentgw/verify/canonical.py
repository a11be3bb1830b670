"""RFC 8785 and the two digests of a call, on the standard library alone."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

_SAFE = 2**53 - 1
_QUOTE = json.JSONEncoder(ensure_ascii=False).encode


class NotCanonical(ValueError):
    """A value RFC 8785 cannot express, or bytes that two JSON parsers may read differently."""


def canonical_json(value: Any) -> bytes:
    """The RFC 8785 bytes of a parsed JSON value. Raises NotCanonical."""
    try:
        return _text(value).encode("utf-8")
    except UnicodeEncodeError:
        raise NotCanonical("a string holds a lone surrogate") from None
    except RecursionError:
        raise NotCanonical("the value is nested too deep") from None


def params_digest(aud: str, method: str, params: Any) -> str:
    """`sha-256:` over RFC 8785 of `{aud, method, params without _meta}`; absent params are `{}`."""
    bare = {} if params is None else _without_meta(params)
    return _digest({"aud": aud, "method": method, "params": bare})


def tool_digest(definition: Mapping[str, Any]) -> str:
    """`sha-256:` over RFC 8785 of a tool definition as `tools/list` shows it, without `_meta`."""
    return _digest(_without_meta(dict(definition)))


def strict_json(data: bytes | str) -> Any:
    """Parse JSON that has one reading: UTF-8, no member twice, finite numbers. Raises NotCanonical."""
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        if isinstance(error, NotCanonical):
            raise
        raise NotCanonical("these bytes are no JSON in UTF-8") from None


def is_deeper(value: Any, levels: int) -> bool:
    """Whether arrays and objects stand within one another on more than `levels` levels."""
    if not isinstance(value, (dict, list)):
        return False
    items = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(is_deeper(item, levels - 1) for item in items)


def _digest(value: Any) -> str:
    hashed = hashlib.sha256(canonical_json(value)).digest()
    return "sha-256:" + base64.urlsafe_b64encode(hashed).rstrip(b"=").decode("ascii")


def _without_meta(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: item for name, item in value.items() if name != "_meta"}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise NotCanonical("an object holds a member twice")
    return members


def _no_constant(name: str) -> Any:
    raise NotCanonical(f"{name} is no JSON number")


def _text(value: Any) -> str:
    match value:
        case None | bool() | str():
            return _QUOTE(value)
        case int():
            if not -_SAFE <= value <= _SAFE:
                raise NotCanonical("an integer lies beyond 2^53-1")
            return str(value)
        case float():
            return _number(value)
        case list():
            return "[" + ",".join(map(_text, value)) + "]"
        case dict():
            names = sorted(value, key=lambda name: name.encode("utf-16-be"))
            return "{" + ",".join(_QUOTE(name) + ":" + _text(value[name]) for name in names) + "}"
    raise NotCanonical(f"{type(value).__name__} is no JSON value")


def _number(value: float) -> str:
    """ECMAScript's Number::toString (ECMA-262 section 6.1.6.1.20)."""
    if not math.isfinite(value):
        raise NotCanonical("a number is not finite")
    if value == 0:
        return "0"
    if value < 0:
        return "-" + _number(-value)
    # repr gives the shortest digits that read back to the same double; only their layout differs.
    mantissa, _, exponent = repr(value).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    if 0 < point <= 21:
        padded = digits.ljust(point, "0")
        return padded[:point] + ("." + padded[point:] if padded[point:] else "")
    if -6 < point <= 0:
        return "0." + "0" * -point + digits
    tail = ("." + digits[1:]) if len(digits) > 1 else ""
    return f"{digits[0]}{tail}e{'+' if point > 1 else '-'}{abs(point - 1)}"
