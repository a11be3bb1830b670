"""What a message asks for: the server, the tool, and the message in that server's own words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from agentgw.core import refusal
from agentgw.core.catalog import Listing, Tool, split_exposed
from agentgw.core.grants import Decision
from agentgw.core.principal import Caller
from agentgw.core.refusal import Refusal
from agentgw.core.target import FILTERED_LISTS, Target, target_of
from agentgw.errors import UpstreamFailed
from agentgw.gateway.incoming import END_SESSION, OPEN_STREAM, Incoming, Server
from agentgw.gateway.judgement import BEYOND_THE_TOKEN, needed_scopes
from agentgw.mcp.message import INVALID_PARAMS, NOTIFICATIONS, Message

UNKNOWN_TOOL = "unknown_tool"
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


async def resolve(
    servers: Mapping[str, Server], incoming: Incoming, *, again: bool = False
) -> Asked:
    """Find what `incoming` names, in the lists at hand or, if `again`, in a fresh one.

    Never fails: what cannot be found is for policy to answer first.
    """
    plain = unresolved(servers, incoming)
    server = plain.server
    if incoming.message.method != "tools/call" or server is None or plain.target is None:
        return plain
    try:
        catalogue = server.catalogue
        listing = await (catalogue.look_again() if again else catalogue.listing())
    except UpstreamFailed as error:
        return plain._replace(failure=error.reason)
    return _listed(plain, plain.target, listing, incoming)


def known(servers: Mapping[str, Server], incoming: Incoming) -> Asked | None:
    """The same where `incoming` calls a tool from a list at hand; None where a server may be asked."""
    plain = unresolved(servers, incoming)
    if plain.server is None or plain.target is None or incoming.message.method != "tools/call":
        return None
    listing = plain.server.catalogue.at_hand
    asked = None if listing is None else _listed(plain, plain.target, listing, incoming)
    return None if asked is None or asked.tool is None else asked


def _listed(plain: Asked, target: Target, listing: Listing, incoming: Incoming) -> Asked:
    if incoming.server is not None:
        tool, withheld = listing.tools.get(target.name), listing.withheld.get(target.name)
        return Asked(plain.server, plain.message, target, tool, plain.label, None, withheld)
    tool = listing.exposed.get(plain.label)
    name = target.name if tool is None else tool.name
    return _renamed(plain, name)._replace(tool=tool, withheld=listing.withheld.get(name))


def unresolved(servers: Mapping[str, Server], incoming: Incoming) -> Asked:
    """What `incoming` names by its own words alone, no server being asked."""
    message = incoming.message
    if incoming.server is not None:
        target = target_of(message.method, message.params)
        label = target.name if target is not None else message.method
        return Asked(servers.get(incoming.server), message, target, None, label)
    exposed = message.params.get("name")
    if message.method != "tools/call" or not isinstance(exposed, str):
        return Asked(None, message, None, None, message.method)
    split = split_exposed(exposed)
    server = servers.get(split[0]) if split is not None else None
    if split is None or server is None:
        return Asked(None, message, None, None, exposed)
    return _renamed(Asked(server, message, None, None, exposed), split[1])


def _renamed(asked: Asked, name: str) -> Asked:
    """A name on `/mcp` is `server__tool`; the server gets its own name for the tool."""
    params = {**asked.message.params, "name": name}
    document = {**asked.message.document, "params": params}
    message = asked.message._replace(params=params, document=document, raw=None)
    return asked._replace(message=message, target=target_of("tools/call", params))


def unfit(asked: Asked, server: Server, target: Target, rule: str) -> Refusal | None:
    """Why a call that policy allows still cannot be made: unknown, changed or unapproved tools."""
    if asked.message.method != "tools/call":
        return None
    if asked.failure is not None:
        return refusal.upstream_failed(server.name, asked.failure)
    if (asked.tool is None and asked.withheld) or (asked.tool is not None and asked.tool.changed):
        return refusal.tool_changed(asked.label, server.name, rule)
    if asked.tool is None:
        return Refusal(INVALID_PARAMS, UNKNOWN_TOOL, f"Unknown tool: {asked.label[:140]}", "", rule)
    if target.name in server.approvals:
        return refusal.approval_required(asked.label, rule)
    return None


def why_not(decision: Decision, caller: Caller, asked: Asked) -> Refusal:
    """What policy's refusal is called towards the agent."""
    (agent, subject), server, target = speakers(caller), asked.server, asked.target
    if decision.reason == "unknown_agent":
        return refusal.unknown_agent(agent)
    if decision.rule == BEYOND_THE_TOKEN:
        return refusal.beyond_the_token(asked.label, agent, subject)
    by = caller.consent is not None
    if server is None or target is None:
        return refusal.not_available(asked.label, agent, subject, asked.label, by)
    if decision.reason == "insufficient_scope":
        needed = tuple(sorted(needed_scopes(server, target.kind, target.name)))
        return refusal.insufficient_scope(asked.label, decision.rule, needed)
    asked_for = f"{server.name}/{target.name}"
    return refusal.not_available(asked.label, agent, subject, asked_for, by)


def passes_unasked(message: Message) -> bool:
    """What needs no grant: openings, lists (filtered later), notifications and posted responses."""
    if message.kind == "request":
        return message.method in _UNASKED or message.method in FILTERED_LISTS
    return message.kind == "response" or message.method.startswith(NOTIFICATIONS)


def is_open_ended(message: Message) -> bool:
    """A stream that lasts as long as its caller's token rather than as long as one call."""
    return message.method in (OPEN_STREAM, "subscriptions/listen")


def speakers(caller: Caller) -> tuple[str, str]:
    """The agent and the user of a caller, as a message names them."""
    if not caller.chain:
        return "a caller without an agent", caller.subject.sub
    agent, subject = caller.chain[0].agent or caller.chain[0].id, caller.subject
    return agent, "itself" if subject.agent == agent else subject.agent or subject.sub
