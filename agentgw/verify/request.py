"""One request taken apart: its token, its message, and why it is not what it should be."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from agentgw.verify.canonical import NotCanonical, is_deeper, params_digest, strict_json

TOKEN_LIMIT = 16 * 1024
MESSAGE_DEPTH = 64
_NAMED_BY = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "resources/subscribe": "uri",
    "resources/unsubscribe": "uri",
    "tasks/get": "taskId",
    "tasks/result": "taskId",
    "tasks/cancel": "taskId",
    "tasks/update": "taskId",
}


class InvalidCall(Exception):
    """The request is not the one its token was made for, or the token is none of the gateway's.

    `status` is 401, or 400 for bytes that are no single JSON-RPC message (408 where they come too
    late, 413 where they are too many). `by_proof` says that a DPoP proof is at fault, or lacking.
    """

    def __init__(self, reason: str, status: int = 401, *, by_proof: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.by_proof = by_proof


def take_apart(token: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Header and claims of a compact JWS in its one spelling; the signature is not looked at."""
    if len(token) > TOKEN_LIMIT or token.count(".") != 2:
        raise InvalidCall("the token is no compact JWS of acceptable size")
    parts = []
    for part in token.split("."):
        try:
            data = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise InvalidCall("the token is not base64url") from None
        if base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii") != part:
            raise InvalidCall("the token is not canonical base64url")
        parts.append(data)
    try:
        header, claims = strict_json(parts[0]), strict_json(parts[1])
    except NotCanonical as error:
        raise InvalidCall(f"the token cannot be read: {error}") from None
    if not isinstance(header, dict) or not isinstance(claims, dict):
        raise InvalidCall("the token's header or claims are no object")
    return header, claims


def about_of(audience: str, message: Mapping[str, Any] | bytes) -> tuple[str, str | None, str]:
    """(method, identifier, digest) of a message; its cost grows with the message."""
    method, identifier, params = _parts(_parse_message(message))
    try:
        return method, identifier, params_digest(audience, method, params)
    except NotCanonical as error:
        raise InvalidCall(f"the message has no canonical form: {error}", 400) from None


def _parse_message(message: Mapping[str, Any] | bytes) -> Mapping[str, Any]:
    if not isinstance(message, bytes):
        return message
    try:
        parsed = strict_json(message)
    except NotCanonical as error:
        raise InvalidCall(f"the body is no JSON-RPC message: {error}", 400) from None
    if not isinstance(parsed, dict):
        raise InvalidCall("the body is no single JSON-RPC message", 400)
    if is_deeper(parsed, MESSAGE_DEPTH):
        raise InvalidCall(f"the body is nested deeper than {MESSAGE_DEPTH} levels", 400)
    return parsed


def _parts(message: Mapping[str, Any]) -> tuple[str, str | None, Any]:
    """(method, identifier, params); a posted response counts as method `response`."""
    method = message.get("method")
    if not isinstance(method, str):
        members = {name: message[name] for name in ("id", "result", "error") if name in message}
        return "response", None, members
    if method == "tools/call" and message.get("id") is None:
        raise InvalidCall("a tools/call without id is a notification, and no token is made for one")
    params = message.get("params")
    if not isinstance(params, dict):
        return method, None, params
    if method == "completion/complete":
        reference = params.get("ref")
        found = reference.get("name", reference.get("uri")) if isinstance(reference, dict) else None
    else:
        found = params.get(_NAMED_BY.get(method, ""))
    return method, found if isinstance(found, str) else None, params
