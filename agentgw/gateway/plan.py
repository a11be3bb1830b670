"""What will be signed for one request, fixed before the record of it is written."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import orjson

from agentgw.core.call_token import call_claims, call_parts, params_digest
from agentgw.core.canonical import b64url, canonical_json
from agentgw.core.catalog import Tool
from agentgw.core.principal import Caller
from agentgw.gateway.incoming import END_SESSION, OPEN_STREAM, Server
from agentgw.mcp.message import Message

_NUMBER_WITH_A_POINT = re.compile(rb"[:,\[]-?[0-9]+[.eE]")
_SORTED = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER


def canonical(value: Any) -> bytes:
    """The RFC 8785 bytes of `value`, as `canonical_json` gives them, but for most values sooner.

    orjson writes the same bytes unless there is a float, or a key beyond ASCII to sort.
    """
    try:
        written = orjson.dumps(value, option=_SORTED)
    except TypeError:
        return canonical_json(value)  # which says what is wrong with it
    if written.isascii() and not _NUMBER_WITH_A_POINT.search(written):
        return written
    return canonical_json(value)


class Plan(NamedTuple):
    """`claims` is None where no token goes along; `issued` is what the record keeps of the token."""

    claims: dict[str, Any] | None
    issued: dict[str, Any] | None
    txn: str
    params_digest: str


def plan_token(
    issuer: str,
    random: Callable[[int], bytes],
    caller: Caller | None,
    server: Server,
    message: Message,
    tool: Tool | None,
    now: float,
) -> Plan:
    """Plan the token of `message` as it will be sent to `server`.

    `caller` None is the gateway itself. Raises NotCanonical for params RFC 8785 cannot express.
    """
    method, identifier, params = call_parts(message.document)
    audience = server.audience
    opening = method in (OPEN_STREAM, END_SESSION)
    digest = params_digest(audience or f"stdio:{server.name}", method, params, canonical)
    txn = caller.txn if caller is not None else None
    if txn is None:
        txn = "t-" + b64url(random(12))
    if audience is None or (caller is not None and not caller.chain):
        return Plan(None, None, txn, digest)
    claims = call_claims(
        issuer=issuer,
        caller=caller,
        aud=audience,
        method=method,
        identifier=identifier,
        scope=server.scopes.get(identifier) if tool is not None and identifier else None,
        tool_digest=tool.digest if tool is not None else None,
        params_digest=None if opening else digest,
        may_act=server.may_act,
        life=server.life,
        now=int(now),
        jti=b64url(random(16)),
        txn=txn,
    )
    issued = {
        "jti": claims["jti"],
        "aud": audience,
        "scope": claims.get("scope"),
        "exp": claims["exp"],
    }
    return Plan(claims, issued, txn, digest)
