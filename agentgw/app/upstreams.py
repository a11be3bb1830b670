"""The links to tool servers: made from the configuration, kept over a reload where nothing changed."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable, Mapping
from functools import cache

from agentgw.app.connected_accounts import Arranged, ConnectedAccounts
from agentgw.app.external_sts import ExternalCredentials
from agentgw.app.stdio_command import command_of
from agentgw.config.model import Config
from agentgw.config.servers import Server as ServerConfig
from agentgw.core.principal import Subject
from agentgw.core.revocation import Revoked
from agentgw.errors import UpstreamFailed
from agentgw.gateway.authority import authorise_own
from agentgw.gateway.call import Gateway
from agentgw.gateway.incoming import Credentials, Server
from agentgw.gateway.switchboard import IDENTITY
from agentgw.mcp.spelling import secret_words
from agentgw.sts.keys import KeyRing
from agentgw.upstream.catalogue import Catalogue, NoteApproval, Pins
from agentgw.upstream.headers import bearer_line
from agentgw.upstream.http import HttpOrigin
from agentgw.upstream.isolated import IsolatedLink
from agentgw.upstream.link import Authorise, Link
from agentgw.upstream.process import ProcessLink
from agentgw.upstream.proof import ProvenOrigin, Prover
from agentgw.upstream.proven import ProvenLink
from agentgw.upstream.stdio import StdioServer
from agentgw.upstream.streamable import StreamableHttp

OWN_TIMEOUT = 15.0
"""Seconds at most for what we ask on our own account: eras, sessions, lists."""

LINGER_SECONDS = 5.0
"""How long a call that was let in may wait for its record before its link is seen in use."""

LOOK_SECONDS = 0.1


class Upstreams:
    """All tool servers of a configuration. `gateway` gives the story, once there is one; `keyring` holds
    the key that tokens are bound to where a server wants that; `external` makes the credentials of servers
    that take those of another authorization server, `accounts` those that users connected."""

    def __init__(
        self,
        pins: Pins,
        gateway: Callable[[], Gateway],
        note_approval: NoteApproval,
        keyring: KeyRing,
        external: ExternalCredentials,
        accounts: ConnectedAccounts,
    ) -> None:
        self.external = external
        self.accounts = accounts
        self._possession_key = cache(keyring.possession_key)
        self._pins = pins
        self._gateway = gateway
        self._note_approval = note_approval
        self._config: Config | None = None
        self._servers: dict[str, Server] = {}
        self._arranged: Mapping[str, Arranged] = {}
        self._leaving: dict[asyncio.Task[None], Server] = {}

    def arrange(self, config: Config) -> Mapping[str, Server]:
        """The servers of `config`; those that are as before keep their connections and processes."""
        arranged = {}
        external = self.external.arrange(config)
        accounts = self._arranged = self.accounts.arrange(config)
        for name, wanted in config.servers.items():
            before = self._servers.get(name)
            link = catalogue = None
            if before is not None and self._config is not None:
                known = self._config.servers[name]
                if _link_of(config, wanted) == _link_of(self._config, known):
                    link = before.link
                    if _list_of(config, wanted) == _list_of(self._config, known):
                        catalogue = before.catalogue
            if link is None:
                link = self._link(config, name, wanted)
            if catalogue is None:
                catalogue = self._catalogue(name, config, wanted, link)
            jkt = self._possession_key().kid if _is_bound(wanted) else None
            credentials: Credentials | None = external.get(name)
            if name in accounts:
                credentials = accounts[name].credentials
            arranged[name] = _server(config, name, wanted, link, catalogue, jkt, credentials)
        return arranged

    def replace(self, config: Config, arranged: Mapping[str, Server]) -> None:
        """Make `arranged` the servers in use; links no longer used end once their calls have."""
        before = self._servers
        self._servers = dict(arranged)
        self.accounts.replace(self._arranged)
        self._config = config
        for name, server in self._servers.items():
            if isinstance(server.link, ProcessLink | IsolatedLink):
                server.link.on_list_changed = server.catalogue.expire
            old = before.pop(name, None)
            if old is not None and old.link is not server.link:
                self._see_off(old)
        for old in before.values():
            self._see_off(old)

    def expire(self) -> None:
        """Ask every server for its tools again at the next look."""
        for server in self._servers.values():
            server.catalogue.expire()

    def forget(self, revoked: Revoked) -> None:
        """Drop what is kept of callers who were revoked: their credentials, and processes of their own; and
        the credentials of an account that was disconnected."""
        self.external.forget(revoked.concerns)
        self.accounts.forget()
        leaving = self._leaving.values()
        for server in (*self._servers.values(), *leaving):
            if isinstance(server.link, IsolatedLink):
                server.link.forget(lambda subject: revoked.party(subject, ()) is not None)

    def retry(self, name: str) -> None:
        """Ask a server for its tools at the next look, if it did not give them yet."""
        server = self._servers.get(name)
        if server is not None:
            server.catalogue.retry()

    async def close(self) -> None:
        """Close every link."""
        await self.external.close()
        await self.accounts.close()
        leaving = dict(self._leaving)
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        await asyncio.gather(
            *(_close(server) for server in (*self._servers.values(), *leaving.values()))
        )

    def _see_off(self, server: Server) -> None:
        task = asyncio.get_running_loop().create_task(_close_when_idle(server))
        self._leaving[task] = server
        task.add_done_callback(lambda done: self._leaving.pop(done, None))

    def _link(self, config: Config, name: str, wanted: ServerConfig) -> Link:
        if not _is_bound(wanted):
            return _link(config, name, wanted)
        assert wanted.url is not None
        key = self._possession_key()
        assert key.sign is not None
        prover = Prover(wanted.url, key.public_members(), key.sign, time.time, os.urandom)
        origin = ProvenOrigin(wanted.url, prover)
        return ProvenLink(http_link(config, name, wanted, origin, prover.credentials))

    def _catalogue(self, name: str, config: Config, wanted: ServerConfig, link: Link) -> Catalogue:
        return Catalogue(
            link,
            self._authorise(name),
            self._pins,
            self._note_approval,
            first_use=wanted.trust == "first-use",
            client=IDENTITY,
            timeout=min(config.call_timeout(wanted), OWN_TIMEOUT),
            max_tools=config.limits.tools_per_server,
            max_pages=config.limits.list_pages,
            max_answer=config.limits.answer,
            clock=time.monotonic,
        )

    def _authorise(self, name: str) -> Authorise:
        async def authorise(method: str, params: Mapping[str, object]) -> bytes | None:
            server = self._servers.get(name)
            if server is None:
                raise UpstreamFailed("it was taken out of the configuration")
            own = authorise_own(lambda: self._gateway().here, lambda: server)
            return await own(method, params)

        return authorise


async def _close_when_idle(server: Server) -> None:
    await asyncio.sleep(LINGER_SECONDS)
    for _ in range(math.ceil(server.timeout / LOOK_SECONDS)):
        if not server.link.retire():
            break
        await asyncio.sleep(LOOK_SECONDS)
    await _close(server)


async def _close(server: Server) -> None:
    """Close the link of a server, whatever it says to that."""
    await asyncio.gather(server.catalogue.close(), server.link.close(), return_exceptions=True)


def _link_of(config: Config, server: ServerConfig) -> tuple[object, ...]:
    """What a link is made from: while this stays the same, so does the link."""
    command = (server.command, server.args, server.env, server.cwd, server.sandbox)
    how = (server.auth.headers, server.era, _is_bound(server), server.isolation)
    limits = config.limits
    most = (limits.processes_per_server, limits.process_idle)
    return (*command, server.url, *how, limits.answer, most if server.isolation != "shared" else ())


def _is_bound(server: ServerConfig) -> bool:
    """Whether its tokens are bound to a key of ours."""
    return server.audience is not None and server.token.actor_mode == "gateway"


def _list_of(config: Config, server: ServerConfig) -> tuple[object, ...]:
    """What the list of a server's tools depends on, besides its link."""
    limits = config.limits
    return server.trust, server.audience, limits.tools_per_server, limits.list_pages


def _server(
    config: Config,
    name: str,
    wanted: ServerConfig,
    link: Link,
    catalogue: Catalogue,
    jkt: str | None,
    credentials: Credentials | None,
) -> Server:
    return Server(
        name,
        link,
        catalogue,
        wanted.audience,
        wanted.chain_assurance,
        {tool: rule.scope for tool, rule in wanted.tools.items() if rule.scope},
        frozenset(tool for tool, rule in wanted.tools.items() if rule.approve),
        config.call_timeout(wanted),
        wanted.token.life,
        wanted.token.typ,
        None if wanted.agent is None else config.agent_id(wanted.agent),
        wanted.token.alg,
        jkt,
        credentials,
    )


def _link(config: Config, name: str, wanted: ServerConfig) -> Link:
    if wanted.url is not None:
        return http_link(config, name, wanted, HttpOrigin(wanted.url))
    if wanted.isolation == "shared":
        return _process_link(config, name, wanted, None)
    return IsolatedLink(
        name,
        lambda subject: _process_link(config, name, wanted, subject),
        most=config.limits.processes_per_server,
        idle_seconds=config.limits.process_idle,
    )


def _process_link(
    config: Config, name: str, wanted: ServerConfig, subject: Subject | None
) -> ProcessLink:
    timeout = min(config.call_timeout(wanted), OWN_TIMEOUT)
    command = command_of(config, name, wanted, subject)
    process = StdioServer(
        command.program,
        command.args,
        command.env,
        command.cwd,
        name=name,
        max_message=config.limits.answer,
        start_timeout=timeout,
    )
    return ProcessLink(name, process, era=wanted.era, client=IDENTITY, timeout=timeout)


def http_link(
    config: Config,
    name: str,
    wanted: ServerConfig,
    origin: HttpOrigin,
    credentials: Callable[[bytes | None, bytes], bytes] = bearer_line,
) -> StreamableHttp:
    """The link to a server over HTTP, by way of `origin`."""
    headers = "".join(
        f"{key}: {value.get_secret_value()}\r\n" for key, value in wanted.auth.headers.items()
    )
    return StreamableHttp(
        name,
        origin.target,
        origin,
        era=wanted.era,
        extra_headers=headers.encode("latin-1"),
        secrets=tuple(
            word
            for value in wanted.auth.headers.values()
            for word in secret_words(value.get_secret_value())
        ),
        client=IDENTITY,
        max_answer=config.limits.answer,
        timeout=min(config.call_timeout(wanted), OWN_TIMEOUT),
        credentials=credentials,
    )
