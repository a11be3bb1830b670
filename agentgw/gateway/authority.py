"""Tokens, each with its record, for what we must send besides an agent's own message."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from agentgw.core.principal import Subject
from agentgw.gateway.incoming import Incoming, Server
from agentgw.gateway.plan import plan_token
from agentgw.gateway.surroundings import Surroundings
from agentgw.mcp.message import Message
from agentgw.upstream import Authorise

Now = Callable[[], Surroundings]
"""Gives the surroundings of this moment: a token must never be older than the last reload."""


def authorise_for(now_here: Now, incoming: Incoming, server: Server) -> Authorise:
    """Tokens, each with its record, for what we must send besides the agent's own message."""

    async def authorise(method: str, params: Mapping[str, Any]) -> bytes | None:
        here = now_here()
        now = here.clock()
        message = _auxiliary(method, params)
        plan = plan_token(here.issuer, here.random, incoming.caller, server, message, None, now)
        entry = await here.journal.open(
            incoming._replace(message=message, event_id=here.journal.new_id()),
            server,
            None,
            now=now,
            txn=plan.txn,
            params_digest=plan.params_digest,
            issued=plan.issued,
            policy_version=here.policy.version,
        )
        here.journal.close(entry, "sent")
        return None if plan.claims is None else here.minter.sign(plan.claims, server.typ)

    return authorise


def authorise_own(now_here: Now, server: Callable[[], Server]) -> Authorise:
    """Tokens, each with its record, for what we ask a server on our own account."""

    async def authorise(method: str, params: Mapping[str, Any]) -> bytes | None:
        here, it = now_here(), server()
        now = here.clock()
        plan = plan_token(here.issuer, here.random, None, it, _auxiliary(method, params), None, now)
        gateway = Subject("gateway", here.issuer, here.issuer)
        await here.journal.own_request(it, method, plan.issued, gateway)
        return None if plan.claims is None else here.minter.sign(plan.claims, it.typ)

    return authorise


def _auxiliary(method: str, params: Mapping[str, Any]) -> Message:
    document: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": dict(params)}
    return Message("notification", None, method, document["params"], document)
