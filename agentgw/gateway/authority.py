"""Tokens, each with its record, for what we must send besides an agent's own message."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from agentgw.core.catalog import Tool
from agentgw.core.principal import Subject
from agentgw.gateway.incoming import Incoming, Server
from agentgw.gateway.plan import Plan, digest_of, plan_token
from agentgw.gateway.surroundings import Surroundings
from agentgw.mcp.message import LARGE_REQUEST, Message
from agentgw.upstream import Authorise

Now = Callable[[], Surroundings]
"""Gives the surroundings of this moment: a token must never be older than the last reload."""


def authorise_for(
    now_here: Now,
    incoming: Incoming,
    server: Server,
    tool: Tool | None = None,
    owner: Subject | None = None,
) -> Authorise:
    """Tokens, each with its record, for what we must send besides the agent's own message, or when
    that must be sent again: then `tool` is the one it calls. `owner` is whose account it may use."""

    async def authorise(method: str, params: Mapping[str, Any]) -> bytes | None:
        here = now_here()
        now = here.clock()
        message = _auxiliary(method, params)
        called, large = None, False
        if method == incoming.message.method:
            called, large = tool, incoming.message.size >= LARGE_REQUEST
        if large:
            digest = await asyncio.to_thread(digest_of, server, message)
        else:
            digest = digest_of(server, message)
        plan = plan_token(
            here.issuer, here.random, incoming.caller, server, message, digest, called, now
        )
        if server.credentials is not None:
            sent = incoming._replace(message=message)
            return await _external(here, sent, server, plan, called, owner)
        entry, durable = here.journal.begin(
            incoming._replace(message=message, event_id=here.journal.new_id()),
            server,
            None,
            now=now,
            txn=plan.txn,
            params_digest=plan.params_digest,
            issued=plan.issued,
            policy_version=here.policy.version,
        )
        await durable
        here.journal.close(entry, "sent")
        if plan.claims is None:
            return None
        return await here.minter.mint(plan.claims, server.typ, server.alg)

    return authorise


def authorise_own(now_here: Now, server: Callable[[], Server]) -> Authorise:
    """Tokens, each with its record, for what we ask a server on our own account."""

    async def authorise(method: str, params: Mapping[str, Any]) -> bytes | None:
        here, it = now_here(), server()
        now = here.clock()
        message = _auxiliary(method, params)
        digest = digest_of(it, message)
        plan = plan_token(here.issuer, here.random, None, it, message, digest, None, now)
        gateway = Subject("gateway", here.issuer, here.issuer)
        if it.credentials is not None:
            made = await it.credentials.own()
            await here.journal.own_request(
                it, method, None if made is None else made.facts, gateway
            )
            return None if made is None else made.token
        await here.journal.own_request(it, method, plan.issued, gateway)
        return None if plan.claims is None else await here.minter.mint(plan.claims, it.typ, it.alg)

    return authorise


async def _external(
    here: Surroundings,
    incoming: Incoming,
    server: Server,
    plan: Plan,
    tool: Tool | None,
    owner: Subject | None,
) -> bytes:
    """The caller's credential for what we must send besides its message, which it was let do already."""
    assert server.credentials is not None
    incoming = incoming._replace(event_id=here.journal.new_id())
    scope = None if tool is None else server.scopes.get(tool.name)
    made = await server.credentials.obtain(incoming.caller, incoming.token, scope, owner)
    entry, durable = here.journal.begin(
        incoming,
        server,
        None,
        now=here.clock(),
        txn=plan.txn,
        params_digest=plan.params_digest,
        issued=made.facts,
        policy_version=here.policy.version,
        assurance=made.assurance,
    )
    await durable
    here.journal.close(entry, "sent")
    return made.token


def _auxiliary(method: str, params: Mapping[str, Any]) -> Message:
    document: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": dict(params)}
    return Message("notification", None, method, document["params"], document)
