"""Refusals and failures as answers: JSON-RPC errors, and the HTTP status each era expects with them."""

from __future__ import annotations

from typing import Any

from agentgw.core.refusal import CONNECT_REQUIRED, LIMITED, UNAVAILABLE, Refusal
from agentgw.gateway.incoming import JSON, Answer, Incoming
from agentgw.mcp.message import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    encode,
)
from agentgw.mcp.modern import (
    CONNECT_INPUT,
    INPUT_METHODS,
    META_CAPABILITIES,
    URL_REQUIRED,
    elicits,
)

_MODERN_STATUS = {
    PARSE_ERROR: 400,
    INVALID_REQUEST: 400,
    INVALID_PARAMS: 400,
    -32020: 400,
    -32021: 400,
    -32022: 400,
    METHOD_NOT_FOUND: 404,
}
"""HTTP status of a protocol error in 2026-07-28; everything else is 200, and all is in older revisions."""


def error_body(request_id: Any, code: int, message: str, data: object = None) -> bytes:
    """A JSON-RPC error response."""
    error: dict[str, object] = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    return encode({"jsonrpc": "2.0", "id": request_id, "error": error})


def status_of(incoming: Incoming, code: int) -> int:
    """The HTTP status that goes with a JSON-RPC error code in the agent's era."""
    return _MODERN_STATUS.get(code, 200) if incoming.era == "modern" else 200


def result(incoming: Incoming, value: dict[str, Any]) -> Answer:
    """A JSON-RPC result."""
    return Answer(200, encode({"jsonrpc": "2.0", "id": incoming.message.id, "result": value}))


def protocol_error(incoming: Incoming, code: int, message: str) -> Answer:
    """A JSON-RPC error of the protocol itself."""
    return Answer(status_of(incoming, code), error_body(incoming.message.id, code, message))


def refusal(incoming: Incoming, why: Refusal, docs: str, as_result: bool = False) -> Answer:
    """A refusal. `as_result` gives it as a tool result, for agents that die of JSON-RPC errors."""
    if incoming.message.kind != "request":
        return Answer(403, refused=True)
    data = why.data(incoming.event_id, docs)
    if why.missing_scopes:
        scope = _challenge(incoming, why)
        body = {
            "error": "insufficient_scope",
            "error_description": f"{why.message}; {why.hint}",
            "scope": scope,
            "event_id": incoming.event_id,
        }
        return Answer(403, encode(body), challenge=scope, refused=True)
    if why.code == CONNECT_REQUIRED and why.link is not None and elicits_urls(incoming):
        return _elicitation(incoming, why, why.link, data)
    if as_result and incoming.message.method == "tools/call" and why.code > 0:
        value: dict[str, Any] = {
            "content": [{"type": "text", "text": f"{why.message} ({why.hint})"}],
            "isError": True,
            "_meta": {"agentgw/refusal": {"code": why.code, **data}},
        }
        if incoming.era == "modern":
            value["resultType"] = "complete"
        return result(incoming, value)
    body_bytes = error_body(incoming.message.id, why.code, why.message, data)
    if why.code == LIMITED:
        # A GET has no request to answer, so it gets the status alone.
        body_bytes = b"" if incoming.message.id is None else body_bytes
        return Answer(429, body_bytes, retry_after=(why.retry_after_ms or 0) // 1000, refused=True)
    return Answer(status_of(incoming, why.code), body_bytes, JSON, refused=True)


def elicits_urls(incoming: Incoming) -> bool:
    """Whether the client can be asked to open a URL: it said so, and was not asked in vain just now."""
    if incoming.era == "handshake":
        return incoming.session is not None and incoming.session.elicits_urls
    capable = elicits(incoming.message.meta.get(META_CAPABILITIES))
    return capable and incoming.message.method in INPUT_METHODS and not incoming.answered


def _elicitation(incoming: Incoming, why: Refusal, link: str, data: dict[str, Any]) -> Answer:
    """URL mode elicitation: an input that is required (2026-07-28), or error -32042 (2025-11-25)."""
    message = f"{why.message}: sign in there once, and agree"
    asked = {"mode": "url", "message": message, "url": link}
    if incoming.era == "modern":
        request = {"method": "elicitation/create", "params": asked}
        value = {"resultType": "input_required", "inputRequests": {CONNECT_INPUT: request}}
        answer = result(incoming, value)
        answer.refused = True
        return answer
    elicitations = [{**asked, "elicitationId": incoming.event_id}]
    body = error_body(
        incoming.message.id, URL_REQUIRED, why.message, {**data, "elicitations": elicitations}
    )
    return Answer(200, body, JSON, refused=True)


def _challenge(incoming: Incoming, why: Refusal) -> str:
    """The scope to ask for: handshake clients replace what they hold, so they get held and needed."""
    held = incoming.caller.scopes if incoming.era == "handshake" else frozenset()
    return " ".join(sorted(held | set(why.missing_scopes)))


def unavailable(incoming: Incoming, docs: str) -> Answer:
    """The log or the store cannot be written: nothing was done, and it is worth trying again."""
    why = Refusal(
        UNAVAILABLE,
        "unavailable",
        "the gateway cannot write its log or read its state, so it makes no call",
        "try again shortly; operators find the cause in the gateway's own output",
    )
    body = error_body(incoming.message.id, why.code, why.message, why.data(incoming.event_id, docs))
    return Answer(503, body, retry_after=1, refused=True)
