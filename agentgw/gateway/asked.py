"""What a message asks for: the server, the tool, and the message in that server's own words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from agentgw.core import refusal
from agentgw.core.catalog import Listing, Tool, split_exposed
from agentgw.core.principal import Caller
from agentgw.core.refusal import Refusal
from agentgw.core.target import FILTERED_LISTS, Target, target_of
from agentgw.errors import UpstreamFailed
from agentgw.gateway.incoming import END_SESSION, OPEN_STREAM, Incoming, Server
from agentgw.mcp.message import INVALID_PARAMS, Message

_UNASKED = frozenset({"initialize", "server/discover", "ping", OPEN_STREAM, END_SESSION})


class Asked(NamedTuple):
    """A message resolved: which server and tool it is for, and the message as that server will get it.

    `label` is the caller's own word for the thing. `failure` says why the server's tools are unknown,
    `withheld` why this one is not offered.
    """

    server: Server | None
    message: Message
    target: Target | None
    tool: Tool | None
    label: str
    failure: str | None = None
    withheld: str | None = None


async def resolve(servers: Mapping[str, Server], incoming: Incoming) -> Asked:
    """Find what `incoming` names. Never fails: what cannot be found is for policy to answer first."""
    message = incoming.message
    if incoming.server is None:
        return await _resolve_exposed(servers, incoming)
    server = servers[incoming.server]
    target = target_of(message.method, message.params)
    label = target.name if target is not None else message.method
    if message.method != "tools/call" or target is None:
        return Asked(server, message, target, None, label)
    try:
        tool = await server.catalogue.find(target.name)
        listing = await server.catalogue.listing()
    except UpstreamFailed as error:
        return Asked(server, message, target, None, label, failure=error.reason)
    withheld = listing.withheld.get(target.name)
    return Asked(server, message, target, tool, label, withheld=withheld)


async def _resolve_exposed(servers: Mapping[str, Server], incoming: Incoming) -> Asked:
    """A name on `/mcp` is `server__tool`; the server gets its own name for the tool."""
    message = incoming.message
    exposed = message.params.get("name")
    if message.method != "tools/call" or not isinstance(exposed, str):
        return Asked(None, message, None, None, message.method)
    split = split_exposed(exposed)
    server = servers.get(split[0]) if split is not None else None
    if split is None or server is None:
        return Asked(None, message, None, None, exposed[:140])
    listing, failure = await _listing(server, exposed)
    tool = listing.exposed.get(exposed) if listing is not None else None
    name = tool.name if tool is not None else split[1]
    params = {**message.params, "name": name}
    renamed = message._replace(
        params=params, document={**message.document, "params": params}, raw=None
    )
    withheld = listing.withheld.get(name) if listing is not None else None
    target = target_of("tools/call", params)
    return Asked(server, renamed, target, tool, exposed, failure, withheld)


async def _listing(server: Server, exposed: str) -> tuple[Listing | None, str | None]:
    try:
        listing = await server.catalogue.listing()
        if exposed not in listing.exposed:
            await server.catalogue.find(split_exposed(exposed)[1])  # type: ignore[index]
            listing = await server.catalogue.listing()
        return listing, None
    except UpstreamFailed as error:
        return None, error.reason


def unfit(asked: Asked, server: Server, target: Target, rule: str) -> Refusal | None:
    """Why a call that policy allows still cannot be made: unknown, changed or unapproved tools."""
    if asked.message.method != "tools/call":
        return None
    if asked.failure is not None:
        return refusal.upstream_failed(server.name, asked.failure)
    if (asked.tool is None and asked.withheld) or (asked.tool is not None and asked.tool.changed):
        return refusal.tool_changed(asked.label, server.name, rule)
    if asked.tool is None:
        return Refusal(
            INVALID_PARAMS, "unknown_tool", f"Unknown tool: {asked.label[:140]}", "", rule
        )
    if target.name in server.approvals:
        return refusal.approval_required(asked.label, rule)
    return None


def passes_unasked(message: Message) -> bool:
    """What needs no grant: openings, lists (filtered later), notifications and posted responses."""
    method = message.method
    return message.kind != "request" or method in _UNASKED or method in FILTERED_LISTS


def is_open_ended(message: Message) -> bool:
    """A stream that lasts as long as its caller's token rather than as long as one call."""
    return message.method in (OPEN_STREAM, "subscriptions/listen")


def speakers(caller: Caller) -> tuple[str, str]:
    """The agent and the user of a caller, as a message names them."""
    if not caller.chain:
        return "a caller without an agent", caller.subject.sub
    hop = caller.chain[0]
    return hop.agent or hop.id, caller.subject.sub
