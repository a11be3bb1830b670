"""The claims of the token that each upstream request carries, and the digests bound into it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from agentgw.core.canonical import canonical_json, digest
from agentgw.core.delegation import act_claim, may_act_claim
from agentgw.core.principal import Caller, Issued
from agentgw.core.revocation import token_key

CALL_DETAILS = "urn:agentgw:mcp-call:1"
"""The `type` of our one `authorization_details` object (RFC 9396)."""

RESPONSE = "response"
"""The action of a posted JSON-RPC response, which has no method of its own."""

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


def params_digest(
    aud: str, method: str, params: Any, canonical: Callable[[Any], bytes] = canonical_json
) -> str:
    """The digest of what is sent upstream: RFC 8785 of `{aud, method, params without _meta}`.

    Absent params (None) count as `{}`. `canonical` may be a faster writer of the very same bytes.
    Raises NotCanonical for what RFC 8785 cannot express.
    """
    bare = {} if params is None else params
    if isinstance(bare, dict) and "_meta" in bare:
        bare = bare.copy()
        del bare["_meta"]
    return digest(canonical({"aud": aud, "method": method, "params": bare}))


def tool_digest(definition: Mapping[str, Any]) -> str:
    """The digest of a tool definition as its server lists it, without `_meta`. Raises NotCanonical."""
    return digest(canonical_json(_without_meta(dict(definition))))


def call_parts(message: Mapping[str, Any]) -> tuple[str, str | None, Any]:
    """(method, identifier, params) a per-call token names for a JSON-RPC message as sent upstream.

    A posted response counts as method `response` with its `id` and `result` or `error` as params.
    """
    method = message.get("method")
    if not isinstance(method, str):
        return RESPONSE, None, {m: message[m] for m in ("id", "result", "error") if m in message}
    params = message.get("params")
    return method, identifier_of(method, params), params


def identifier_of(method: str, params: Any) -> str | None:
    """What a call is about: the tool, prompt, resource URI or task id; None where it names none."""
    if not isinstance(params, dict):
        return None
    if method == "completion/complete":
        reference = params.get("ref")
        named = reference.get("name", reference.get("uri")) if isinstance(reference, dict) else None
    else:
        named = params.get(_NAMED_BY.get(method, ""))
    return named if isinstance(named, str) else None


def call_claims(
    *,
    issuer: str,
    caller: Caller | None,
    aud: str,
    method: str,
    identifier: str | None,
    scope: str | None,
    tool_digest: str | None,
    params_digest: str | None,
    may_act: str | None,
    life: int,
    now: int,
    jti: str,
    txn: str,
    jkt: str | None = None,
) -> dict[str, Any]:
    """The claims of one per-call token, in the order they are published (RFC 9068, RFC 8693, RFC 9396).

    `caller` None means the gateway acts for itself: it is subject and client, and there is no `act`.
    `may_act` is the id of the one agent that may exchange this token. `life` is in seconds, `now` in
    Unix seconds; the token never outlives the caller's own. `txn` is used where the caller has none.
    `jkt` binds the token to a key of ours: the gateway, which proves it, then is the outermost actor.
    Raises ValueError for a caller without any agent: no user's call is made without one.
    """
    if caller is not None and not caller.chain:
        raise ValueError("a caller without an agent gets no per-call token")
    claims: dict[str, Any] = {
        "iss": issuer,
        "client_id": issuer,
        "aud": aud,
        "sub": issuer if caller is None else caller.subject.name,
    }
    if caller is not None:
        claims["act"] = act_claim(caller.chain, issuer, presented=jkt is not None)
    if may_act is not None:
        claims["may_act"] = may_act_claim(may_act, issuer)
    if scope:
        claims["scope"] = scope
    expires = now + life
    claims["iat"] = claims["nbf"] = now
    claims["exp"] = expires if caller is None else min(expires, caller.exp)
    claims["jti"] = jti
    claims["txn"] = txn if caller is None or caller.txn is None else caller.txn
    if jkt is not None:
        claims["cnf"] = {"jkt": jkt}
    if caller is not None:
        if caller.acr is not None:
            claims["acr"] = caller.acr
        if caller.auth_time is not None:
            claims["auth_time"] = caller.auth_time
    evidence = None if caller is None else caller.chain[0].evidence
    details = _details(aud, method, identifier, tool_digest, params_digest, evidence)
    claims["authorization_details"] = [details]
    return claims


def _details(
    aud: str,
    method: str,
    identifier: str | None,
    tool_digest: str | None,
    params_digest: str | None,
    evidence: str | None,
) -> dict[str, Any]:
    """The one authorization_details object: what this token may be used for, once."""
    details: dict[str, Any] = {"type": CALL_DETAILS, "locations": [aud], "actions": [method]}
    if identifier is not None:
        details["identifier"] = identifier
    if tool_digest is not None:
        details["tool_digest"] = tool_digest
    if params_digest is not None:
        details["params_digest"] = params_digest
    if evidence is not None:
        details["evidence"] = evidence
    details["max_uses"] = 1
    return details


def entrusted(claims: Mapping[str, Any], caller: Caller, issuer: str) -> Issued:
    """What the ledger keeps of a per-call token that the agent in its `may_act` may exchange once.

    User, groups, chain and reach are the caller's; scope and life are the token's own, which hold
    less. A caller bound to one tool, or by consent, entrusts no more.
    """
    return Issued(
        jti=claims["jti"],
        kind="call",
        parent=token_key(caller.inbound, issuer),
        subject=caller.subject,
        groups=caller.groups,
        chain=caller.chain,
        audience=claims["aud"],
        scopes=frozenset(claims.get("scope", "").split()),
        txn=claims["txn"],
        iat=claims["iat"],
        exp=claims["exp"],
        presenter=caller.presenter,
        acr=caller.acr,
        auth_time=caller.auth_time,
        resources=caller.resources,
        details=caller.details,
        receipts=caller.receipts,
        consent=caller.consent,
    )


def _without_meta(value: Any) -> Any:
    if isinstance(value, dict) and "_meta" in value:
        return {name: item for name, item in value.items() if name != "_meta"}
    return value
