"""JSON-RPC messages, parsed once and strictly, so that policy and upstream cannot read them differently."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import accumulate
from math import inf
from typing import Any, Literal, NamedTuple

import orjson

from agentgw.core.canonical import MAX_SAFE_INTEGER
from agentgw.errors import MalformedMessage

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603

_ENVELOPE = ("jsonrpc", "id", "method", "params", "result", "error")
_MEMBERS = (*_ENVELOPE, "name", "uri", "arguments", "taskId", "ref", "_meta")
_PROTOCOL_KEYS = {key.casefold(): key for key in _MEMBERS}
_EXACT = frozenset(_MEMBERS)
_REFERENCE_KEYS = {key: key for key in ("type", "name", "uri")}
LARGE_REQUEST = 12 * 1024
"""Bytes of a message from which on it is parsed, judged and digested in a thread (docs/performance.md).

The worst of this size takes some 3 ms of that; the event loop is everybody's and must not wait longer.
"""

MAX_CONTAINERS = 50_000
"""Objects and arrays of one message. Each costs the decoder half a microsecond in which no other thread of
the process can run, so a body of nothing else would hold up everybody for half a second."""

LARGE_ANSWER = 64 * 1024
"""The same for an answer, which is only looked over."""

_METHOD = re.compile(r"[\x21-\x7e]{1,200}")
_NO_MARKS = bytes(set(range(256)) - set(b'[]{}"'))
_STEP = [1 if byte in b"[{" else -1 for byte in range(256)]
_SLICE = 64 * 1024
NOTIFICATIONS = "notifications/"
_NAME_LENGTHS = (("name", 1024), ("taskId", 1024), ("uri", 8192))
_SHORTEST_LIMIT = min(most for _, most in _NAME_LENGTHS)
"""A message of so many bytes cannot hold a name of more characters."""
_TAKE_ARGUMENTS = frozenset({"tools/call", "prompts/get"})
_SURROGATE = re.compile("[\ud800-\udfff]")

RequestId = str | int


class Message(NamedTuple):
    """One JSON-RPC message. `document` is the whole object as parsed, unknown members included.

    `raw` are its bytes where they are just what `encode` would write again; `size` says how many bytes it
    came in, 0 where it is of our own making.
    """

    kind: Literal["request", "notification", "response"]
    id: RequestId | None
    method: str
    params: dict[str, Any]
    document: dict[str, Any]
    raw: bytes | None = None
    size: int = 0

    @property
    def meta(self) -> dict[str, Any]:
        """`params._meta`, or an empty dictionary."""
        meta = self.params.get("_meta")
        return meta if isinstance(meta, dict) else {}


def parse_message(body: bytes, max_depth: int = 64) -> Message:
    """Parse one JSON-RPC message from UTF-8 bytes.

    Refuses other encodings, duplicate members, case variants of protocol members, NaN and Infinity,
    nesting beyond `max_depth`, batches, and envelopes JSON-RPC 2.0 does not allow. Raises MalformedMessage.
    """
    document = _load_compact(body, max_depth)
    raw = None if document is None else body
    if document is None:
        document = _load(body, max_depth)
    if isinstance(document, list):
        raise MalformedMessage(
            400, INVALID_REQUEST, "batches are not part of this protocol revision"
        )
    if not isinstance(document, dict):
        raise MalformedMessage(400, INVALID_REQUEST, "a message is a JSON object")
    _refuse_case_variants(document)
    if document.get("jsonrpc") != "2.0":
        raise MalformedMessage(400, INVALID_REQUEST, 'a message carries "jsonrpc": "2.0"')
    return _classify(document, raw, len(body))


def encode(document: object) -> bytes:
    """A message as UTF-8 JSON without white space or line feeds, every value as it was parsed."""
    try:
        return orjson.dumps(document)
    except TypeError:  # an integer beyond 64 bits, or a lone surrogate
        return json.dumps(document, separators=(",", ":")).encode("ascii")


def _classify(document: dict[str, Any], raw: bytes | None, size: int) -> Message:
    request_id = document.get("id")
    if "id" in document and not _is_id(request_id):
        raise MalformedMessage(
            400, INVALID_REQUEST, "an id is a string of Unicode text or an integer up to 2^53-1"
        )
    if "method" not in document:
        return _response(document, request_id, size)
    method = document["method"]
    if not isinstance(method, str) or not _METHOD.fullmatch(method):
        raise MalformedMessage(
            400, INVALID_REQUEST, "a method is 1 to 200 visible ASCII characters"
        )
    if "result" in document or "error" in document:
        raise MalformedMessage(
            400, INVALID_REQUEST, "a message is a request or a response, not both"
        )
    params = document.get("params", {})
    if not isinstance(params, dict):
        raise MalformedMessage(400, INVALID_PARAMS, "params is an object")
    _refuse_case_variants(params)
    arguments = params.get("arguments")
    if method in _TAKE_ARGUMENTS and not (arguments is None or isinstance(arguments, dict)):
        error = MalformedMessage(400, INVALID_PARAMS, "params.arguments is an object")
        error.request_id = request_id
        raise error
    reference = params.get("ref")
    if isinstance(reference, dict):
        _refuse_case_variants(reference, _REFERENCE_KEYS)
    kind: Literal["request", "notification"] = "request" if "id" in document else "notification"
    if kind == "notification" and not method.startswith(NOTIFICATIONS):
        # A server may act on the method alone, and would then do unasked what a request must ask for.
        raise MalformedMessage(400, INVALID_REQUEST, f"only {NOTIFICATIONS}* come without an id")
    if size > _SHORTEST_LIMIT:
        _refuse_long_names(params, request_id)
    return Message(kind, request_id, method, params, document, raw, size)


def _refuse_long_names(params: dict[str, Any], request_id: RequestId | None) -> None:
    """Names are written down with each call, refused ones too."""
    reference = params.get("ref")
    for holder in (params, reference if isinstance(reference, dict) else {}):
        for key, most in _NAME_LENGTHS:
            name = holder.get(key)
            if isinstance(name, str) and len(name) > most:
                error = MalformedMessage(
                    400, INVALID_PARAMS, f"{key} is longer than {most} characters"
                )
                error.request_id = request_id
                raise error


def _response(document: dict[str, Any], request_id: RequestId | None, size: int) -> Message:
    if ("result" in document) == ("error" in document) or request_id is None:
        raise MalformedMessage(
            400, INVALID_REQUEST, "a message has a method, or an id and either result or error"
        )
    return Message("response", request_id, "", {}, document, None, size)


def _is_id(value: object) -> bool:
    """What every JSON reader gives back unchanged, so that an answer finds its request."""
    if type(value) is str:
        return _SURROGATE.search(value) is None
    return type(value) is int and -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER


def _refuse_case_variants(
    members: dict[str, Any], known: Mapping[str, str] = _PROTOCOL_KEYS
) -> None:
    """A reader that ignores case would take `Method` for `method`, and see another call than we judged.

    So would one that reads a name only up to a NUL.
    """
    if members.keys() <= _EXACT:
        return
    for key in members:
        exact = known.get(key.casefold().partition("\0")[0])
        if exact is not None and key != exact:
            raise MalformedMessage(
                400,
                INVALID_REQUEST,
                f"a member is spelled almost like {exact!r}: names are compared exactly here",
            )


def _load(body: bytes, max_depth: int) -> Any:
    if body.count(b"[") + body.count(b"{") > max_depth:
        _check_structure(body, max_depth)
    try:
        return _DECODE(body.decode("utf-8"))
    except UnicodeDecodeError:
        raise MalformedMessage(400, PARSE_ERROR, "the body is not UTF-8") from None
    except (ValueError, RecursionError) as error:
        detail = str(error) if isinstance(error, _Refused) else "the body is not JSON"
        raise MalformedMessage(400, PARSE_ERROR, detail) from None


def _load_compact(body: bytes, max_depth: int) -> Any:
    """The value of a body that is written the way orjson writes it, else None; the quick way to it.

    A body that comes out again byte for byte lost nothing on the way in: no duplicate member, no digit,
    no odd encoding.
    """
    if body.count(b"[") + body.count(b"{") > max_depth:
        return None
    try:
        found = orjson.loads(body)
        return found if orjson.dumps(found) == body else None
    except (ValueError, TypeError):
        return None


def _check_structure(body: bytes, max_depth: int) -> None:
    """Refuse by the brackets outside strings what is nested too deep or holds too many containers.

    They are counted in slices, so that no long stretch keeps other threads waiting.
    """
    marks = body.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NO_MARKS)
    # Two quotes side by side, taken away, leave what is inside a string inside, and what is outside out.
    brackets = b"".join(marks.replace(b'""', b"").split(b'"')[::2])
    depth = 0
    for start in range(0, len(brackets), _SLICE):
        depths = list(
            accumulate(map(_STEP.__getitem__, brackets[start : start + _SLICE]), initial=depth)
        )
        depth = depths[-1]
        if max(depths) > max_depth:
            raise MalformedMessage(400, PARSE_ERROR, f"nested deeper than {max_depth} levels")
    if brackets.count(b"[") + brackets.count(b"{") > MAX_CONTAINERS:
        detail = f"more than {MAX_CONTAINERS} objects and arrays in one message"
        raise MalformedMessage(400, INVALID_REQUEST, detail)


class _Refused(ValueError):
    """JSON that parses but that we refuse; the message is safe to show."""


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _Refused("an object has two members of the same name")
    return members


def _refuse_constant(name: str) -> Any:
    raise _Refused(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value in (inf, -inf):
        raise _Refused("a number is larger than any reader could hold")
    return value


_DECODE = json.JSONDecoder(
    object_pairs_hook=_unique_members, parse_constant=_refuse_constant, parse_float=_finite
).decode
