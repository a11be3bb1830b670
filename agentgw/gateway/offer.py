"""What an agent could be let do for a user: the tools that its lists would show, before it has a token."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from agentgw.core.offer import Offer, OfferedServer, OfferedTool
from agentgw.core.principal import Caller
from agentgw.gateway.incoming import Server
from agentgw.gateway.judgement import decide, needed_scopes
from agentgw.gateway.surroundings import Surroundings

PATIENCE = 2.0
"""Seconds that a server which was never asked for its tools may hold up the page."""
_ABOUT = 160


async def offer(
    here: Surroundings, caller: Caller, reached: Collection[str], hand_to: tuple[str, ...]
) -> Offer:
    """What policy would allow `caller`, whose token does not exist yet, at the servers `reached`."""
    servers = [server for name, server in here.servers.items() if name in reached]
    await asyncio.gather(*(server.catalogue.first_look(PATIENCE) for server in servers))
    ready = [server for server in servers if server.catalogue.ready]
    return Offer(
        tuple([await _offered(here, caller, server) for server in ready]),
        hand_to,
        tuple(server.name for server in servers if not server.catalogue.ready),
    )


async def _offered(here: Surroundings, caller: Caller, server: Server) -> OfferedServer:
    listing = await server.catalogue.listing()
    now = here.clock()
    return OfferedServer(
        server.name,
        tuple(
            OfferedTool(
                tool.name,
                _about(tool.definition.get("description")),
                needed_scopes(server, "tools", tool.name),
            )
            for tool in listing.tools.values()
            if not tool.changed
            and decide(here, caller, server, "tools", tool.name, None, now).allow
        ),
    )


def _about(description: object) -> str:
    """The beginning of a server's words on a tool, on one line."""
    text = " ".join(description.split()) if isinstance(description, str) else ""
    shown = "".join(char if char.isprintable() else " " for char in text)
    return shown if len(shown) <= _ABOUT else f"{shown[: _ABOUT - 1]}…"
