"""The links to tool servers: made from the configuration, kept over a reload where nothing changed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from agentgw.config.model import Config
from agentgw.config.servers import Server as ServerConfig
from agentgw.gateway.call import Gateway
from agentgw.gateway.incoming import Server
from agentgw.gateway.switchboard import IDENTITY
from agentgw.upstream.catalogue import Catalogue, Pins
from agentgw.upstream.http import HttpOrigin
from agentgw.upstream.link import Authorise, Link
from agentgw.upstream.process import ProcessLink
from agentgw.upstream.stdio import StdioServer
from agentgw.upstream.streamable import StreamableHttp

OWN_TIMEOUT = 15.0
"""Seconds at most for what we ask on our own account: eras, sessions, lists."""


class Upstreams:
    """All tool servers of a configuration. `gateway` gives the story, once there is one."""

    def __init__(self, pins: Pins, gateway: Callable[[], Gateway]) -> None:
        self._pins = pins
        self._gateway = gateway
        self._configured: dict[str, ServerConfig] = {}
        self._servers: dict[str, Server] = {}

    def arrange(self, config: Config) -> Mapping[str, Server]:
        """The servers of `config`; those that are as before keep their connections and processes."""
        limits = config.limits
        arranged = {}
        for name, wanted in config.servers.items():
            before = self._servers.get(name)
            if before is not None and self._configured[name] == wanted:
                arranged[name] = before
                continue
            link = _link(name, wanted, limits.answer)
            authorise = self._authorise(name)
            timeout = min(wanted.timeout, OWN_TIMEOUT)
            catalogue = Catalogue(
                link,
                authorise,
                self._pins,
                first_use=wanted.trust == "first-use",
                client=IDENTITY,
                timeout=timeout,
                max_tools=limits.tools_per_server,
                max_pages=limits.list_pages,
                max_answer=limits.answer,
                clock=time.monotonic,
            )
            if isinstance(link, ProcessLink):
                link.on_list_changed = catalogue.expire
            arranged[name] = _server(config, name, wanted, link, catalogue)
        return arranged

    def replace(self, config: Config, arranged: Mapping[str, Server]) -> list[Server]:
        """Make `arranged` the servers in use; those no longer used come back, to be closed."""
        kept = {id(server) for server in arranged.values()}
        gone = [server for server in self._servers.values() if id(server) not in kept]
        self._servers = dict(arranged)
        self._configured = dict(config.servers)
        return gone

    def _authorise(self, name: str) -> Authorise:
        async def authorise(method: str, params: Mapping[str, object]) -> bytes | None:
            gateway = self._gateway()
            return await gateway.authorise_own(lambda: self._servers[name])(method, params)

        return authorise

    async def close(self) -> None:
        """Close every link."""
        await close_all(list(self._servers.values()))


async def close_all(servers: list[Server]) -> None:
    """Close the links of these servers, whatever any of them says to it."""
    await asyncio.gather(
        *(server.catalogue.close() for server in servers),
        *(server.link.close() for server in servers),
        return_exceptions=True,
    )


def _server(
    config: Config, name: str, wanted: ServerConfig, link: Link, catalogue: Catalogue
) -> Server:
    return Server(
        name,
        link,
        catalogue,
        wanted.audience,
        wanted.chain_assurance,
        {tool: rule.scope for tool, rule in wanted.tools.items() if rule.scope},
        frozenset(tool for tool, rule in wanted.tools.items() if rule.approve),
        wanted.timeout,
        wanted.token.life,
        wanted.token.typ,
        None if wanted.agent is None else config.agent_id(wanted.agent),
    )


def _link(name: str, wanted: ServerConfig, max_answer: int) -> Link:
    timeout = min(wanted.timeout, OWN_TIMEOUT)
    if wanted.command is not None:
        process = StdioServer(
            wanted.command,
            wanted.args,
            {key: value.get_secret_value() for key, value in wanted.env.items()},
            None if wanted.cwd is None else str(wanted.cwd),
            name=name,
            max_message=max_answer,
            start_timeout=timeout,
        )
        return ProcessLink(name, process, era=wanted.era, client=IDENTITY, timeout=timeout)
    assert wanted.url is not None
    origin = HttpOrigin(wanted.url)
    headers = "".join(
        f"{key}: {value.get_secret_value()}\r\n" for key, value in wanted.auth.headers.items()
    )
    return StreamableHttp(
        name,
        origin.target,
        origin,
        era=wanted.era,
        extra_headers=headers.encode("latin-1"),
        client=IDENTITY,
        max_answer=max_answer,
        timeout=timeout,
    )
