"""What will be signed for one request, fixed before the record of it is written."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import orjson

from agentgw.core.call_token import (
    RESPONSE,
    call_claims,
    call_parts,
    entrusted,
    identifier_of,
    params_digest,
)
from agentgw.core.canonical import b64url, canonical_json
from agentgw.core.catalog import Tool
from agentgw.core.principal import Caller, Issued
from agentgw.core.receipts import receipt_members
from agentgw.gateway.incoming import END_SESSION, OPEN_STREAM, Server
from agentgw.mcp.message import Message

_NUMBER_WITH_A_POINT = re.compile(rb"[:,\[]-?[0-9]+[.eE]")
_POINTS = bytes.maketrans(b"123456789eE", b"000000000..")
_DIGIT_AND_POINT = b"0."
"""What no number with a point lacks once translated; the pattern is ten times as slow a look."""
_SORTED = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER


def canonical(value: Any) -> bytes:
    """The RFC 8785 bytes of `value`, as `canonical_json` gives them, but for most values sooner.

    orjson writes the same bytes unless there is a float, or a key beyond ASCII to sort.
    """
    try:
        written = orjson.dumps(value, option=_SORTED)
    except TypeError:
        return canonical_json(value)  # which says what is wrong with it
    if not written.isascii():
        return canonical_json(value)
    if _DIGIT_AND_POINT in written.translate(_POINTS) and _NUMBER_WITH_A_POINT.search(written):
        return canonical_json(value)
    return written


class Plan(NamedTuple):
    """`claims` is None where no token goes along; `issued` is what the record keeps of the token.

    `entrusted` is what the ledger must keep of a token that an agent behind the server may exchange.
    """

    claims: dict[str, Any] | None
    issued: dict[str, Any] | None
    txn: str
    params_digest: str
    entrusted: Issued | None = None


def digest_of(server: Server, message: Message) -> str:
    """The digest of what `message` will ask of `server`. May run in a thread: it takes its size's time.

    Raises NotCanonical for params RFC 8785 cannot express.
    """
    method, params = message.method, message.params
    if message.kind == "response":
        method, _, params = call_parts(message.document)
    return params_digest(server.audience or f"stdio:{server.name}", method, params, canonical)


def plan_token(
    issuer: str,
    random: Callable[[int], bytes],
    caller: Caller | None,
    server: Server,
    message: Message,
    digest: str,
    tool: Tool | None,
    now: float,
) -> Plan:
    """Plan the token of `message` as it will be sent to `server`; `digest` is `digest_of` both.

    `caller` None is the gateway itself.
    """
    method = message.method or RESPONSE
    identifier = identifier_of(method, message.params)
    audience = server.audience
    opening = method in (OPEN_STREAM, END_SESSION)
    drawn = random(28)
    txn = caller.txn if caller is not None else None
    if txn is None:
        txn = "t-" + b64url(drawn[16:])
    if audience is None or (caller is not None and not caller.chain):
        return Plan(None, None, txn, digest)
    # Only a call that policy granted hands anything on: lists and openings pass without a grant.
    may_act = server.may_act if caller is not None and tool is not None else None
    claims = call_claims(
        issuer=issuer,
        caller=caller,
        aud=audience,
        method=method,
        identifier=identifier,
        scope=server.scopes.get(identifier) if tool is not None and identifier else None,
        tool_digest=tool.digest if tool is not None else None,
        params_digest=None if opening else digest,
        may_act=may_act,
        life=server.life,
        now=int(now),
        jti=b64url(drawn[:16]),
        txn=txn,
        jkt=server.jkt,
    )
    if caller is not None and caller.receipts:
        claims |= receipt_members(caller.receipts, caller.chain)
    issued = {
        "jti": claims["jti"],
        "aud": audience,
        "scope": claims.get("scope"),
        "exp": claims["exp"],
    }
    if may_act is None or caller is None:
        return Plan(claims, issued, txn, digest)
    return Plan(claims, issued, txn, digest, entrusted(claims, caller, issuer))
