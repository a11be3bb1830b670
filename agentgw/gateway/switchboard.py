"""What the gateway answers itself: openings, pings, lists; and the way from a message to its answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping
from typing import Any, TypeVar
from weakref import WeakSet

from agentgw import __version__
from agentgw.core import refusal
from agentgw.core.catalog import Listing, Tool
from agentgw.core.grants import Kind
from agentgw.core.refusal import Refusal
from agentgw.core.target import FILTERED_LISTS
from agentgw.errors import Unavailable, UpstreamFailed
from agentgw.gateway.authority import authorise_own
from agentgw.gateway.call import Gateway, check_tokens
from agentgw.gateway.incoming import Answer, Incoming, NewSession, Server
from agentgw.gateway.journal import Entry
from agentgw.gateway.judgement import decide
from agentgw.gateway.problems import protocol_error, result, unavailable
from agentgw.gateway.problems import refusal as refused
from agentgw.mcp import bridge, handshake, modern
from agentgw.mcp.message import INVALID_PARAMS, METHOD_NOT_FOUND, encode
from agentgw.upstream.catalogue import final_document
from agentgw.upstream.link import Link, Reply, ServerInfo

IDENTITY: Mapping[str, str] = {"name": "agentgw", "version": __version__}
TOOLS_ONLY: Mapping[str, Any] = {"tools": {}}
LIST_TTL_MS = 30_000

_Item = TypeVar("_Item")

AT_A_TIME = 100
"""Items of a list that are judged before others have their turn: each takes policy some microseconds."""

_PATIENCE = 3.0
"""Seconds a list of all servers' tools waits for one whose tools are not known yet."""


class Switchboard:
    """Sends each message where it belongs. `gateway` holds the story and its surroundings."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._modern_only: WeakSet[Link] = WeakSet()

    def handle(self, incoming: Incoming) -> Awaitable[Answer]:
        """What answers one authenticated message: for a call the story itself. Raises InvalidToken."""
        message, here = incoming.message, self._gateway.here
        if not here.revoked.quiet:
            check_tokens(here.revoked, incoming.caller)
        if message.kind != "request":
            return self._unanswered(incoming)
        if message.method == "tools/call":
            return self._gateway.call(_less_own_input(incoming))
        return self._answer(incoming)

    async def _answer(self, incoming: Incoming) -> Answer:
        message = incoming.message
        match message.method:
            case "initialize":
                return await self._initialize(incoming)
            case "server/discover":
                return await self._discover(incoming)
            case "ping":
                return result(incoming, {"resultType": "complete"} if _modern(incoming) else {})
            case "tools/list":
                return await self._list_tools(incoming)
        if incoming.server is None:
            return protocol_error(incoming, METHOD_NOT_FOUND, f"Method not found: {message.method}")
        answer = await self._gateway.call(_less_own_input(incoming))
        if message.method in FILTERED_LISTS:
            return await self._filtered(incoming, answer)
        return answer

    async def _unanswered(self, incoming: Incoming) -> Answer:
        """A notification or a posted response: for the server's own session, or for us."""
        if not self._gateway.here.hears(incoming.caller):
            return Answer(403)
        session = incoming.session
        if session is not None:
            if session.relayed:
                return await self._gateway.call(incoming)
            if incoming.message.method == "notifications/cancelled":
                request_id = incoming.message.params.get("requestId")
                if isinstance(request_id, str | int):
                    self._gateway.cancel(session.id, request_id)
        return Answer(202)

    async def _initialize(self, incoming: Incoming) -> Answer:
        """Open a handshake session: the server's own where it has one, else one of ours."""
        version = handshake.negotiate(incoming.message)
        info = await self._info(incoming)
        server = self._server(incoming)
        if info is not None and server is not None and self._may_relay(server, info):
            relayed = await self._relay_opening(incoming)
            if relayed is not None:
                return relayed
            if info.era == "modern":
                self._modern_only.add(server.link)
        if info is None:
            value = bridge.initialize_result(version, TOOLS_ONLY, IDENTITY, None)
        else:
            capabilities = bridge.without_push(info.capabilities)
            value = bridge.initialize_result(
                version, capabilities, info.server or IDENTITY, info.instructions
            )
        answer = result(incoming, value)
        answer.session = NewSession(version, False, None, _elicits_urls(incoming))
        return answer

    def _may_relay(self, server: Server, info: ServerInfo) -> bool:
        """Whether to ask for the server's own session: many that speak 2026-07-28 still give one."""
        if not server.link.relays_sessions:
            return False
        return info.era == "handshake" or server.link not in self._modern_only

    async def _relay_opening(self, incoming: Incoming) -> Answer | None:
        """The server's own answer to initialize, or None where it gave none: then we open ours."""
        answer = await self._gateway.relay_opening(incoming)
        if answer is not None and (answer.stream is not None or await _has_result(answer.body)):
            answer.session = NewSession(
                incoming.version, True, answer.upstream_session, _elicits_urls(incoming)
            )
            return answer
        return None

    async def _discover(self, incoming: Incoming) -> Answer:
        info = await self._info(incoming)
        if info is None:
            value = bridge.discover_result(TOOLS_ONLY, IDENTITY, None, LIST_TTL_MS)
        else:
            capabilities = dict(info.capabilities)
            if info.era == "handshake" or not self._speaks_http(incoming):
                capabilities = bridge.without_push(capabilities)
            value = bridge.discover_result(
                capabilities, info.server or IDENTITY, info.instructions, LIST_TTL_MS
            )
        return result(incoming, value)

    async def _list_tools(self, incoming: Incoming) -> Answer:
        if incoming.message.params.get("cursor") is not None:
            return protocol_error(incoming, INVALID_PARAMS, "there is only one page of tools")
        server = self._server(incoming)
        here, caller = self._gateway.here, incoming.caller
        servers = [server] if server is not None else list(here.servers.values())
        lost = here.lost(caller)
        why = None if lost is None else refusal.revoked(lost)
        try:
            if here.revoked.stale:
                raise Unavailable("revocations cannot be read")
            entry = await self._record_list(incoming, server, why)
        except Unavailable:
            return unavailable(incoming, here.docs)
        if why is not None:
            return refused(incoming, why, here.docs)
        if not self._gateway.here.knows_agents_of(incoming.caller):
            servers = []
        if server is not None and servers:
            try:
                await server.catalogue.listing()
            except UpstreamFailed as error:
                return refused(
                    incoming, refusal.upstream_failed(server.name, error.reason), here.docs
                )
        await asyncio.gather(*(each.catalogue.first_look(_PATIENCE) for each in servers))
        tools: list[dict[str, Any]] = []
        for each in servers:
            if each.catalogue.ready:
                tools += await self._visible(incoming, each, await each.catalogue.listing())
        value: dict[str, Any] = {"tools": tools}
        if _modern(incoming):
            value = bridge.to_modern_result("tools/list", value, IDENTITY, LIST_TTL_MS)
        here.journal.close(entry, "ok", is_error=False)
        if len(tools) < AT_A_TIME:
            return result(incoming, value)
        return await asyncio.to_thread(result, incoming, value)

    async def _visible(
        self, incoming: Incoming, server: Server, listing: Listing
    ) -> list[dict[str, Any]]:
        """The tools policy lets this caller call, with arguments it may like or more scope."""
        return [
            _exposed(tool) if incoming.server is None else dict(tool.definition)
            async for tool in _in_turns(listing.tools.values())
            if not tool.changed and self._may(incoming, server, "tools", tool.name)
        ]

    def _may(self, incoming: Incoming, server: Server, kind: Kind, name: str) -> bool:
        here = self._gateway.here
        decision = decide(here, incoming.caller, server, kind, name, None, here.clock())
        return decision.allow or decision.reason == "insufficient_scope"

    async def _filtered(self, incoming: Incoming, answer: Answer) -> Answer:
        """A list of the server's, less what policy would not let this caller use."""
        server = self._server(incoming)
        if server is None or answer.status != 200:
            return answer
        kind, member, key = FILTERED_LISTS[incoming.message.method]
        limit = self._gateway.here.max_answer
        reply = Reply(200, complete=None if answer.stream else answer.body, stream=answer.stream)
        try:
            document = await final_document(reply, limit)
        except UpstreamFailed as error:
            why = refusal.upstream_failed(server.name, error.reason)
            return refused(incoming, why, self._gateway.here.docs)
        listed = document.get("result")
        items = listed.get(member) if isinstance(listed, dict) else None
        if isinstance(listed, dict) and items is not None:
            listed[member] = [
                item
                async for item in _in_turns(items if isinstance(items, list) else ())
                if isinstance(item, dict)
                and isinstance(item.get(key), str)
                and self._may(incoming, server, kind, item[key])
            ]
        body = await asyncio.to_thread(encode, document)
        return Answer(200, body, assurance=answer.assurance)

    async def _record_list(
        self, incoming: Incoming, server: Server | None, why: Refusal | None
    ) -> Entry:
        here = self._gateway.here
        entry, durable = here.journal.begin(
            incoming,
            server,
            None,
            now=here.clock(),
            txn=incoming.caller.txn,
            reason=None if why is None else why.reason,
            policy_version=here.policy.version,
        )
        await durable
        return entry

    async def _info(self, incoming: Incoming) -> ServerInfo | None:
        """What the server said of itself; None on `/mcp`, for unknown agents, while out of reach."""
        server = self._server(incoming)
        if server is None or not self._gateway.here.hears(incoming.caller):
            return None
        try:
            async with asyncio.timeout(server.timeout):
                return await server.link.info(
                    authorise_own(lambda: self._gateway.here, lambda: server)
                )
        except (UpstreamFailed, Unavailable, TimeoutError):
            return None

    def _server(self, incoming: Incoming) -> Server | None:
        return None if incoming.server is None else self._gateway.here.servers[incoming.server]

    def _speaks_http(self, incoming: Incoming) -> bool:
        server = self._server(incoming)
        return server is not None and server.link.relays_sessions


async def _in_turns(items: Iterable[_Item]) -> AsyncIterator[_Item]:
    """The items, with a pause for others after each so many."""
    for number, item in enumerate(items, 1):
        yield item
        if number % AT_A_TIME == 0:
            await asyncio.sleep(0)


async def _has_result(body: bytes) -> bool:
    document = await final_document(Reply(200, complete=body), len(body))
    return isinstance(document.get("result"), dict)


def _exposed(tool: Tool) -> dict[str, Any]:
    meta = tool.definition.get("_meta")
    own = {"agentgw/server": tool.server, "agentgw/tool": tool.name}
    return {
        **tool.definition,
        "name": tool.exposed,
        "_meta": {**meta, **own} if isinstance(meta, dict) else own,
    }


def _less_own_input(incoming: Incoming) -> Incoming:
    """The message less the client's answer to what we asked it for ourselves."""
    params = modern.without_own_input(incoming.message.params) if _modern(incoming) else None
    if params is None:
        return incoming
    document = {**incoming.message.document, "params": params}
    message = incoming.message._replace(params=params, document=document, raw=None)
    return incoming._replace(message=message, answered=True)


def _elicits_urls(incoming: Incoming) -> bool:
    """Whether a client that opens a session is of a revision with URL elicitation, and can do it."""
    params = incoming.message.params
    return params.get("protocolVersion") == handshake.VERSIONS[0] and modern.elicits(
        params.get("capabilities")
    )


def _modern(incoming: Incoming) -> bool:
    return incoming.era == "modern"
