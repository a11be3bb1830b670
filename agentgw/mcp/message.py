"""JSON-RPC messages, parsed once and strictly, so that policy and upstream cannot read them differently."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from agentgw.errors import MalformedMessage

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603

_ENVELOPE = ("jsonrpc", "id", "method", "params", "result", "error")
_PROTOCOL_KEYS = frozenset(_ENVELOPE) | {"name", "uri", "arguments", "taskid", "_meta"}
_METHOD = re.compile(r"[\x21-\x7e]{1,200}")
_BRACKETS = re.compile(rb'[\[\]{}"]')
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)

RequestId = str | int


@dataclass(frozen=True, slots=True)
class Message:
    """One JSON-RPC message. `document` is the whole object as parsed, unknown members included."""

    kind: Literal["request", "notification", "response"]
    id: RequestId | None
    method: str
    params: dict[str, Any]
    document: dict[str, Any]

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
    return _classify(document)


def encode(document: object) -> bytes:
    """A message as UTF-8 JSON without white space or line feeds, every value as it was parsed."""
    try:
        return orjson.dumps(document)
    except TypeError:  # an integer beyond 64 bits, or a lone surrogate
        return json.dumps(document, separators=(",", ":")).encode("ascii")


def _classify(document: dict[str, Any]) -> Message:
    request_id = document.get("id")
    if "id" in document and (type(request_id) is not str and type(request_id) is not int):
        raise MalformedMessage(400, INVALID_REQUEST, "an id is a string or an integer")
    if "method" not in document:
        return _response(document, request_id)
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
    kind: Literal["request", "notification"] = "request" if "id" in document else "notification"
    return Message(kind, request_id, method, params, document)


def _response(document: dict[str, Any], request_id: RequestId | None) -> Message:
    if ("result" in document) == ("error" in document) or request_id is None:
        raise MalformedMessage(
            400, INVALID_REQUEST, "a message has a method, or an id and either result or error"
        )
    return Message("response", request_id, "", {}, document)


def _refuse_case_variants(members: dict[str, Any]) -> None:
    """A reader that ignores case would take `Method` for `method`, and see another call than we judged."""
    for key in members:
        if key not in _PROTOCOL_KEYS and key != "taskId" and key.casefold() in _PROTOCOL_KEYS:
            raise MalformedMessage(
                400,
                INVALID_REQUEST,
                f"the member {key[:40]!r} differs from a protocol member by case only",
            )


def _load(body: bytes, max_depth: int) -> Any:
    if body.count(b"[") + body.count(b"{") > max_depth:
        _check_depth(body, max_depth)
    try:
        return _DECODE(body.decode("utf-8"))
    except UnicodeDecodeError:
        raise MalformedMessage(400, PARSE_ERROR, "the body is not UTF-8") from None
    except (ValueError, RecursionError) as error:
        detail = str(error) if isinstance(error, _Refused) else "the body is not JSON"
        raise MalformedMessage(400, PARSE_ERROR, detail) from None


def _check_depth(body: bytes, max_depth: int) -> None:
    depth = 0
    for found in _BRACKETS.finditer(_STRING.sub(b"", body)):
        token = found.group()
        if token in (b"[", b"{"):
            depth += 1
            if depth > max_depth:
                raise MalformedMessage(400, PARSE_ERROR, f"nested deeper than {max_depth} levels")
        elif token != b'"':
            depth -= 1


class _Refused(ValueError):
    """JSON that parses but that we refuse; the message is safe to show."""


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _Refused("an object has two members of the same name")
    return members


def _refuse_constant(name: str) -> Any:
    raise _Refused(f"{name} is not JSON")


_DECODE = json.JSONDecoder(
    object_pairs_hook=_unique_members, parse_constant=_refuse_constant
).decode
