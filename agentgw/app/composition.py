"""One gateway put together: from a configuration to an ASGI application, and again on a reload."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import time
from collections.abc import Awaitable, Mapping
from pathlib import Path

import httpx2
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette

from agentgw.app import convert
from agentgw.app.random_pool import RandomPool
from agentgw.app.restart import keep_until_restart
from agentgw.app.turnstile import Turnstile
from agentgw.app.upstreams import Upstreams
from agentgw.audit.keys import note_signer
from agentgw.audit.log import FileLog
from agentgw.config.model import Config
from agentgw.core import refusal
from agentgw.core.principal import Caller, Issued
from agentgw.core.refusal import Refusal
from agentgw.errors import Unavailable
from agentgw.gateway.asked import speakers
from agentgw.gateway.call import Gateway
from agentgw.gateway.incoming import Server
from agentgw.gateway.journal import Journal
from agentgw.gateway.streams import OpenStreams
from agentgw.gateway.surroundings import Surroundings
from agentgw.http.downstream import Door, Downstream
from agentgw.http.oauth import OAuthEndpoint
from agentgw.http.sessions import SessionSeal
from agentgw.http.site import Sign, Site
from agentgw.identity import jose
from agentgw.identity.oidc import OidcKeys
from agentgw.identity.verifier import TokenVerifier
from agentgw.registry.assertions import UsedAssertions
from agentgw.registry.ledger import Ledger
from agentgw.registry.people import People
from agentgw.registry.pins import ToolPins
from agentgw.registry.schema import open_database
from agentgw.sts.clients import ClientAuthenticator
from agentgw.sts.keys import KeyRing
from agentgw.sts.mint import Minter

HOUSEKEEPING_SECONDS = 10.0
LEDGER_PURGE_SECONDS = 600.0
PEOPLE_SECONDS = 30.0
"""With as much again in the journal, a forgotten key is gone from every worker in a minute."""

_log = logging.getLogger("agentgw")


class OwnTokens:
    """What the identity room may know of the tokens we issued."""

    def __init__(self, issuer: str, keyring: KeyRing, ledger: Ledger) -> None:
        self.issuer = issuer
        self._keyring = keyring
        self._ledger = ledger

    def key(self, kid: str) -> object | None:
        """The public key we sign, or lately signed, with under `kid`."""
        key = self._keyring.key(kid)
        return None if key is None else key.public

    def issued(self, jti: str) -> Issued | None:
        """The ledger's entry of a token for our own endpoints."""
        return self._ledger.find(jti)


class App:
    """A running gateway. `site` is the ASGI application. Make one with `build`."""

    def __init__(self, config: Config, audit: FileLog, keyring: KeyRing, engine: Engine) -> None:
        self.config = config
        self.audit = audit
        self.keyring = keyring
        self._engine = engine
        self._clock = time.time
        self._random = RandomPool()
        self._ledger = Ledger(engine)
        self._used = UsedAssertions(engine)
        self._http = httpx2.AsyncClient(follow_redirects=False, timeout=5.0, trust_env=False)
        self._keys: dict[tuple[str, str | None], OidcKeys] = {}
        self._minter = Minter(keyring, config.public_url)
        self.journal = Journal(
            audit, People(engine, max_age=PEOPLE_SECONDS), self._clock, self._random
        )
        self.streams = OpenStreams(config.limits.streams_per_agent)
        self.upstreams = Upstreams(ToolPins(engine), lambda: self.gateway, self._note_approval)
        self.turnstile = Turnstile(audit, self._clock, self._random)
        servers = self.upstreams.arrange(config)
        self.upstreams.replace(config, servers)
        self.policy = convert.policy(config)
        self._clients = convert.clients(config)
        self._exchange_rules = convert.exchange_rules(config)
        self.verifier = self._verifier(config)
        self.gateway = Gateway(self._surroundings(config, servers))
        self.downstream = Downstream(
            self._door(config),
            self.gateway,
            SessionSeal(keyring.session_key(), self._random),
            self._clock,
            self.turnstile.count,
        )
        self.site = Site(
            self._sign(config), self.downstream, self._control(), lambda: self.audit.refusal
        )
        self._tasks: set[asyncio.Task[None]] = {
            asyncio.create_task(keyring.watch()),
            asyncio.create_task(self._keep_house()),
        }

    async def warm_up(self) -> None:
        """Ask issuers and servers what they are, so that the first call need not wait; never fails."""
        keys = [key.warm() for key in self._keys.values()]
        tools = [server.catalogue.listing() for server in self.gateway.here.servers.values()]
        every: list[Awaitable[object]] = [*keys, *tools]
        await asyncio.gather(*every, return_exceptions=True)
        for name, server in self.gateway.here.servers.items():
            if (why := server.link.describe()) is not None and not server.catalogue.ready:
                _log.warning("server %s: %s; it will be asked again", name, why)
        for (issuer, _), key in self._keys.items():
            if key.problem is not None:
                _log.warning("issuer %s: %s; it will be asked again", issuer, key.problem)

    async def reload(self, config: Config) -> list[str]:
        """Swap to `config`, whole; returns what only a restart will apply. Raises ConfigError.

        Tokens already verified are judged afresh; streams of agents that lost their rights end.
        """
        config, left = keep_until_restart(self.config, config)
        new_policy, new_clients = convert.policy(config), convert.clients(config)
        verifier = self._verifier(config)
        servers = self.upstreams.arrange(config)
        await self.journal.note(
            "config/reload", detail={"policy_version": new_policy.version, "digest": config.digest}
        )
        self.config, self.policy, self._clients = config, new_policy, new_clients
        self._exchange_rules = convert.exchange_rules(config)
        self.verifier = verifier
        self._drop_unused_keys(config)
        self.upstreams.replace(config, servers)
        self.gateway.here = self._surroundings(config, servers)
        self.downstream.door = self._door(config)
        self.site.sign = self._sign(config)
        self.streams.per_agent = config.limits.streams_per_agent
        self.streams.cut(self._lost_rights)
        # Whatever an operator approved or mended meanwhile counts from now on.
        self.upstreams.expire()
        self._tasks.add(warm_up := asyncio.create_task(self.warm_up()))
        warm_up.add_done_callback(self._tasks.discard)
        return left

    def end_streams(self) -> None:
        """End what would otherwise stay open for as long as its token lives, now and from now on."""
        self.streams.end(refusal.revoked("this stream, as the gateway stops,"))

    async def close(self) -> None:
        """Give back everything; the log last, so that every outcome is in it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.upstreams.close()
        for keys in self._keys.values():
            await keys.aclose()
        await self._http.aclose()
        self.turnstile.write(everything=True)
        await self.audit.close()
        self._engine.dispose()

    async def _note_approval(self, server: str, digests: Mapping[str, str]) -> None:
        """The durable record of tool definitions that count as approved from now on."""
        await self.journal.note("server/approve", server=server, detail={"tools": dict(digests)})

    def _lost_rights(self, caller: Caller) -> Refusal | None:
        if self.gateway.knows_agents_of(caller):
            return None
        return refusal.revoked(speakers(caller)[0])

    def _verifier(self, config: Config) -> TokenVerifier:
        rules = convert.issuer_rules(config)
        keys = {}
        for rule in rules:
            place = (rule.issuer, rule.jwks_uri)
            if place not in self._keys:
                self._keys[place] = OidcKeys(
                    rule.issuer, self._http, jwks_uri=rule.jwks_uri, dev=config.dev
                )
            keys[rule.alias] = self._keys[place]
        return TokenVerifier(
            rules,
            convert.agent_rules(config),
            OwnTokens(config.public_url, self.keyring, self._ledger),
            config.public_url,
            keys,
            token_limit=config.limits.token,
            claims_depth=config.limits.claims_depth,
        )

    def _drop_unused_keys(self, config: Config) -> None:
        """Forget the keys of issuers no longer configured; who waits for them still gets them."""
        used = {(rule.issuer, rule.jwks_uri) for rule in convert.issuer_rules(config)}
        self._keys = {place: keys for place, keys in self._keys.items() if place in used}

    def _surroundings(self, config: Config, servers: Mapping[str, Server]) -> Surroundings:
        agents = config.agents.items()
        return Surroundings(
            config.public_url,
            f"{config.public_url}/errors",
            servers,
            self.policy,
            self._minter,
            self.journal,
            self.streams,
            self._clock,
            self._random,
            frozenset(name for name, agent in agents if not agent.disabled),
            frozenset(name for name, agent in agents if agent.refusals == "tool_result"),
            config.limits.answer,
        )

    def _door(self, config: Config) -> Door:
        return Door(
            config.public_url,
            frozenset(config.servers),
            lambda server: " ".join(convert.scopes_of(config, server)),
            self.verifier,
            self._may_reach,
            config.limits.body,
            config.limits.body_deadline,
            config.limits.depth,
            config.trusted_proxies,
        )

    def _may_reach(self, caller: Caller, server: str) -> bool:
        """Whether any grant speaks of this caller and server; for agents we do not know, policy answers."""
        return not self.gateway.knows_agents_of(caller) or self.policy.reaches(caller, server)

    def _sign(self, config: Config) -> Sign:
        return Sign(
            config.public_url,
            config.allowed_hosts,
            config.allowed_origins,
            tuple(issuer.issuer for issuer in config.issuers.values()),
            lambda server: convert.scopes_of(config, server),
        )

    def _control(self) -> Starlette:
        endpoint = OAuthEndpoint(
            verifier=lambda: self.verifier,
            clients=ClientAuthenticator(
                lambda: self._clients,
                self.config.public_url,
                split=jose.split,
                verify=jose.verify,
                used=self._used,
                clock=self._clock,
            ),
            ledger=self._ledger,
            keyring=self.keyring,
            minter=self._minter,
            rules=lambda: self._exchange_rules,
            append=self.audit.append,
            new_event_id=self.journal.new_id,
            clock=self._clock,
            refused=self.turnstile.count,
            trusted_proxies=self.config.trusted_proxies,
        )
        control = Starlette(routes=endpoint.routes())
        control.router.redirect_slashes = False
        return control

    async def _keep_house(self) -> None:
        """Counts of refusals each minute, old ledger entries every ten."""
        purged = self._clock()
        while True:
            await asyncio.sleep(HOUSEKEEPING_SECONDS)
            self.turnstile.write()
            now = self._clock()
            if now - purged > LEDGER_PURGE_SECONDS:
                purged = now
                try:
                    await asyncio.to_thread(self._ledger.purge, int(now))
                    await asyncio.to_thread(self._used.purge, int(now))
                except Exception:
                    _log.exception("old entries of the ledger could not be purged")


async def build(config: Config, worker: int = 1) -> App:
    """Open state and log, and put a gateway together on the running loop.

    `worker` numbers the processes of one gateway from 1; each writes a log of its own. Raises
    ConfigError for what cannot be right, Unavailable where the state cannot be opened.
    """
    state = config.state_dir
    try:
        _open_state(state)
        keyring = KeyRing(state, log_name=_note_name(config.public_url))
        private, name = keyring.checkpoint_key()
        engine = open_database(state / "agentgw.db")
        signer = note_signer(name, private)
        _publish_vkey(state / "keys" / "checkpoints.vkey", str(signer.key))
    except (OSError, SQLAlchemyError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "orig", None) or error
        raise Unavailable(f"the state directory {state} cannot be used: {reason}") from error
    audit = await FileLog.start(
        state / "log",
        f"gw-{worker}",
        signer,
        checkpoint_seconds=config.audit.checkpoint_seconds,
        checkpoint_records=config.audit.checkpoint_records,
    )
    try:
        return App(config, audit, keyring, engine)
    except BaseException:
        await audit.close()
        raise


def _open_state(state: Path) -> None:
    """Make the directory, ours alone; one that others may enter is closed to them. Raises OSError."""
    os.makedirs(state, mode=0o700, exist_ok=True)
    found = state.stat()
    # A sticky directory is shared on purpose (/tmp): closing it would shut others out.
    others = found.st_mode & 0o077 and not found.st_mode & stat.S_ISVTX
    if others and found.st_uid == os.geteuid():
        state.chmod(0o700)


def _publish_vkey(path: Path, vkey: str) -> None:
    """Put the public key of the checkpoints where an operator finds it, to be kept elsewhere."""
    text = f"{vkey}\n"
    if not path.exists() or path.read_text("utf-8") != text:
        path.write_text(text, "utf-8")


def _note_name(public_url: str) -> str:
    """A signed note's key name has neither spaces nor plus signs (C2SP signed-note)."""
    return public_url.partition("://")[2].replace("+", "_")
