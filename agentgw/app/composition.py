"""One gateway put together: from a configuration to an ASGI application, and again on a reload."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping

from sqlalchemy import Engine

from agentgw.app import convert
from agentgw.app.authorization_server import Parts
from agentgw.app.client_auth import ClientCredentials, authenticator, presence
from agentgw.app.connected_accounts import ConnectedAccounts
from agentgw.app.control import Control
from agentgw.app.external_sts import ExternalCredentials
from agentgw.app.introspectors import introspectors
from agentgw.app.issuer_keys import IssuerKeys
from agentgw.app.key_watch import watch_keys
from agentgw.app.login_clients import LoginClients
from agentgw.app.outbound import HttpClients
from agentgw.app.own_keys import adapt_keyring
from agentgw.app.own_tokens import OwnTokens
from agentgw.app.possession import possession_by
from agentgw.app.random_pool import RandomPool
from agentgw.app.restart import keep_until_restart
from agentgw.app.revocation_watch import RevocationWatch
from agentgw.app.tables import Tables
from agentgw.app.trust_bundles import TrustBundles
from agentgw.app.turnstile import Turnstile
from agentgw.app.upstreams import Upstreams
from agentgw.audit.log import FileLog
from agentgw.config.model import Config
from agentgw.core import refusal
from agentgw.core.call_token import CALL_DETAILS
from agentgw.core.principal import Caller, Issued
from agentgw.core.refusal import Refusal
from agentgw.core.revocation import Revoked
from agentgw.gateway.asked import speakers
from agentgw.gateway.call import Gateway
from agentgw.gateway.incoming import Server
from agentgw.gateway.journal import Journal
from agentgw.gateway.streams import OpenStreams
from agentgw.gateway.surroundings import Surroundings
from agentgw.http.downstream import Door, Downstream
from agentgw.http.one_request import OneRequest
from agentgw.http.sessions import SessionSeal
from agentgw.http.site import Sign, Site
from agentgw.identity.verifier import TokenVerifier
from agentgw.registry.people import People
from agentgw.sts.keys import KeyRing, TokenKey
from agentgw.sts.mint import Minter

HOUSEKEEPING_SECONDS = 10.0
LEDGER_PURGE_SECONDS = 600.0
PEOPLE_SECONDS = 30.0
"""With as much again in the journal, a forgotten key is gone from every worker in a minute."""

_log = logging.getLogger("agentgw")


class App:
    """A running gateway. `site` is the ASGI application. Make one with `build`."""

    def __init__(self, config: Config, audit: FileLog, keyring: KeyRing, engine: Engine) -> None:
        self.config = config
        self.audit = audit
        self.keyring = keyring
        self._clock = time.time
        self._random = RandomPool()
        self._tables = Tables(engine, config.state_dir)
        self.revoked = Revoked(config.public_url)
        self._http = HttpClients(lambda: self.config)
        self._login_clients = LoginClients(lambda: self.config, self._http, self._tables)
        self._keys = IssuerKeys(self._http)
        self._minter = Minter(keyring, config.public_url)
        self.journal = Journal(
            audit, People(engine, max_age=PEOPLE_SECONDS), self._clock, self._random
        )
        self.streams = OpenStreams(config.limits.streams_per_agent)
        self.watch = self._watch()
        self.upstreams = self._links()
        self.turnstile = Turnstile(audit, self._clock, self._random, lambda: self.config.agents)
        servers = self.upstreams.arrange(config)
        self.upstreams.replace(config, servers)
        self.policy = convert.policy(config)
        self._bundles = TrustBundles(self._http.plain)
        self.on_new_anchors: Callable[[], None] = lambda: None
        self.credentials = ClientCredentials(config, self._bundles.of(config))
        self._authenticator = authenticator(
            lambda: self.credentials, config.public_url, self._tables.used, self._clock
        )
        self._exchange_rules = convert.exchange_rules(config)
        self.verifier = self._verifier(config)
        self._possession = possession_by(
            config, self.keyring, self._tables.used_proofs, self.credentials
        )
        self.gateway = Gateway(self._surroundings(config, servers))
        self._control = Control(
            self._authorization_parts(),
            self._tables,
            self.upstreams,
            self._http,
            self._keys,
            config=lambda: self.config,
            here=lambda: self.gateway.here,
            policy=lambda: self.policy,
        )
        self.downstream = Downstream(
            self._door(config),
            self.gateway,
            SessionSeal(keyring.session_key(), self._random),
            self._clock,
            self.turnstile.count,
        )
        self.site = Site(
            self._sign(config), self.downstream, self._control.app, lambda: self.audit.refusal
        )
        keys = watch_keys(keyring, lambda: self.config.keys.rotate_every, self._note_rotation)
        lasting = (keys, self._keep_house(), self.watch.run())
        self._tasks: set[asyncio.Task[None]] = {asyncio.create_task(each) for each in lasting}

    async def warm_up(self) -> None:
        """Ask issuers and servers what they are, so that the first call need not wait; never fails."""
        tools = [server.catalogue.listing() for server in self.gateway.here.servers.values()]
        every: list[Awaitable[object]] = [self._keys.warm(), *tools, self._refresh_bundles()]
        await asyncio.gather(*every, return_exceptions=True)
        for name, server in self.gateway.here.servers.items():
            if (why := server.link.describe()) is not None and not server.catalogue.ready:
                _log.warning("server %s: %s; it will be asked again", name, why)
        self._keys.tell_problems()

    async def reload(self, config: Config) -> list[str]:
        """Swap to `config`, whole; returns what only a restart will apply. Raises ConfigError.

        Tokens already verified are judged afresh; streams of agents that lost their rights end.
        """
        config, left = keep_until_restart(self.config, config)
        new_policy = convert.policy(config)
        new_credentials = ClientCredentials(config, self._bundles.of(config))
        verifier = self._verifier(config)
        party = self._control.login.arrange(config)
        servers = self.upstreams.arrange(config)
        await asyncio.to_thread(adapt_keyring, self.keyring, config, os.environ)
        await self.journal.recorder.record(
            "config/reload", detail={"policy_version": new_policy.version, "digest": config.digest}
        )
        self.config, self.policy, self.credentials = config, new_policy, new_credentials
        self._exchange_rules = convert.exchange_rules(config)
        self.verifier = verifier
        self._control.login.use(config, party)
        self._possession = possession_by(
            config, self.keyring, self._tables.used_proofs, self.credentials
        )
        used = {(rule.issuer, rule.jwks_uri) for rule in convert.issuer_rules(config)}
        self._keys.keep_only(used)
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
        await self.watch.close()
        await self._control.close()
        await self._tables.write_what_waits()
        await self.upstreams.close()
        await self._keys.close()
        await self._login_clients.close()
        await self._http.aclose()
        self.turnstile.write(everything=True)
        await self.audit.close()
        self.keyring.close()
        self._tables.close()

    async def _note_rotation(self, key: TokenKey) -> None:
        await self.journal.recorder.record("keys/rotate", detail={"alg": key.alg, "kid": key.kid})

    async def _note_approval(self, server: str, digests: Mapping[str, str]) -> None:
        """The durable record of tool definitions that count as approved from now on."""
        await self.journal.recorder.record(
            "server/approve", server=server, detail={"tools": dict(digests)}
        )

    def _forget_revoked(self) -> None:
        """What was known of callers who may no more, and the streams they have open."""
        self.verifier.forget(self.revoked.tokens_of)
        self.downstream.door.one_request.forget(self.revoked.tokens_of)
        self.upstreams.forget(self.revoked)
        self.streams.cut(self._lost_rights)

    async def _remember(self, issued: Issued) -> None:
        """The ledger's entry of a per-call token that an agent behind a server may exchange."""
        await self._tables.entries.record(issued)

    def _lost_rights(self, caller: Caller, account: str | None) -> Refusal | None:
        if self.revoked.has_account(account):
            return refusal.revoked("the connected account")
        if (what := self.gateway.here.lost(caller)) is not None:
            return refusal.revoked(what)
        if self.gateway.here.knows_agents_of(caller):
            return None
        return refusal.revoked(speakers(caller)[0])

    def _watch(self) -> RevocationWatch:
        return RevocationWatch(
            self._tables.revocations,
            self.revoked,
            self._forget_revoked,
            self.journal.recorder,
            self._clock,
        )

    def _links(self) -> Upstreams:
        external = ExternalCredentials(self._http, self._minter.mint, self.revoked.concerns)
        accounts = ConnectedAccounts(
            self._http,
            self._tables.engine,
            self._tables.one_time,
            self.keyring,
            self.config.public_url,
            self.revoked.has_account,
            lambda user: self.revoked.party(user, ()) is not None,
        )
        return Upstreams(
            self._tables.pins,
            lambda: self.gateway,
            self._note_approval,
            self.keyring,
            external,
            accounts,
        )

    def _verifier(self, config: Config) -> TokenVerifier:
        rules = convert.issuer_rules(config)
        keys = {
            rule.alias: self._keys.at((rule.issuer, rule.jwks_uri), config.dev) for rule in rules
        }
        introspection, opaque = introspectors(config, self._http)
        return TokenVerifier(
            rules,
            convert.agent_rules(config),
            OwnTokens(config.public_url, self.keyring, self._tables.entries),
            config.public_url,
            keys,
            token_limit=config.limits.token,
            claims_depth=config.limits.claims_depth,
            revoked=self.revoked.has_token,
            introspection=introspection,
            opaque=opaque,
        )

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
            self._exchange_rules.steps,
            frozenset(name for name, agent in agents if agent.refusals == "tool_result"),
            config.limits.answer,
            self.revoked,
            self._remember,
        )

    def _door(self, config: Config) -> Door:
        return Door(
            config.public_url,
            frozenset(config.servers),
            lambda server: " ".join(convert.scopes_of(config, server)),
            self.verifier,
            OneRequest(self._control.issuing, config.public_url, self._clock),
            self._may_reach,
            config.limits.body,
            config.limits.body_deadline,
            config.limits.depth,
            self._possession,
            config.trusted_proxies,
            presence(config, self.credentials, self._authenticator, self._clock),
            convert.keeps_token(config),
            convert.undiscovered(config),
        )

    def _may_reach(self, caller: Caller, server: str) -> bool:
        """Whether any grant speaks of this caller and server; for agents we do not know, policy answers."""
        return not self.gateway.here.knows_agents_of(caller) or self.policy.reaches(caller, server)

    def _sign(self, config: Config) -> Sign:
        return Sign(
            config.public_url,
            config.allowed_hosts,
            config.allowed_origins,
            convert.authorization_servers(config),
            lambda server: convert.scopes_of(config, server),
            self._possession.metadata,
            convert.undiscovered(config),
            convert.says_nothing_of_oauth(config),
        )

    def _authorization_parts(self) -> Parts:
        return Parts(
            issuer=self.config.public_url,
            keyring=self.keyring,
            minter=self._minter,
            clients=self._authenticator,
            ledger=self._tables.entries,
            spend=lambda jti, exp: self._tables.used.once(CALL_DETAILS, jti, exp),
            one_time=self._tables.one_time,
            hourly=self._tables.hourly,
            refresh_tokens=self._tables.refresh_tokens,
            login_clients=self._login_clients,
            refresh_life=lambda: convert.refresh_life(self.config),
            longest_login=lambda: convert.recheck_bounds(self.config).longest,
            store=self._tables.revocations,
            refresh=self.watch.refresh,
            revoked=self.revoked,
            verifier=lambda: self.verifier,
            rules=lambda: self._exchange_rules,
            possession=lambda: self._possession,
            auth_methods=lambda: self.credentials.methods,
            recorder=self.journal.recorder,
            clock=self._clock,
            refused=self.turnstile.count,
            trusted_proxies=self.config.trusted_proxies,
            certificate_of=lambda scope: self.credentials.certificate_of(scope),
        )

    async def _refresh_bundles(self) -> None:
        if await self._bundles.refresh(self.credentials.bundles):
            self.on_new_anchors()

    async def _keep_house(self) -> None:
        """Counts of refusals each minute, old ledger entries every ten."""
        purged = self._clock()
        while True:
            await asyncio.sleep(HOUSEKEEPING_SECONDS)
            self.turnstile.write()
            await self._refresh_bundles()
            now = self._clock()
            if now - purged > LEDGER_PURGE_SECONDS:
                purged = now
                await self._tables.purge(int(now))
