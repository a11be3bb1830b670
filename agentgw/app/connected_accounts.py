"""Users' accounts at tool servers, and the accounts of our own: from the configuration."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sqlalchemy import Engine

from agentgw.app.authorization_server import Parts
from agentgw.app.outbound import HttpClients
from agentgw.config.model import Config
from agentgw.config.upstream_oauth import UserAccounts
from agentgw.core.connected import Account, Place
from agentgw.core.principal import Subject
from agentgw.core.upstream_oauth import redirect_uri
from agentgw.errors import UpstreamFailed
from agentgw.http.browser import Browser
from agentgw.http.connect import LINK, LINK_SECONDS, ConnectEndpoint
from agentgw.identity.oidc import IssuerUnusable, check_url
from agentgw.registry.one_time import OneTime
from agentgw.registry.vault import Vault
from agentgw.sts.client_assertion import client_assertion, read_client_key
from agentgw.sts.keys import KeyRing, secret_kid
from agentgw.sts.own_client import OwnClient
from agentgw.upstream.connecting import STATE, Connections, check_state
from agentgw.upstream.oauth_client import OAuthClient, OwnRegistration
from agentgw.upstream.user_oauth import UserOAuth
from agentgw.upstream.web import Web, origin_of


@dataclass(frozen=True, slots=True)
class Arranged:
    """What one tool server with `auth.mode: oauth` has."""

    credentials: UserOAuth
    connections: Connections


class ConnectedAccounts:
    """Makes what servers with `auth.mode: oauth` need; a reload makes all of it anew, the vault stays.

    `http` asks what others name under the guard, and origins that the operator named as they are. `gone`
    tells of an account that was disconnected, by its `account_key`, `barred` of a user who was revoked.
    The vault is for whoever keeps credentials.
    """

    def __init__(
        self,
        http: HttpClients,
        engine: Engine,
        one_time: OneTime,
        keyring: KeyRing,
        public_url: str,
        gone: Callable[[str], bool],
        barred: Callable[[Subject], bool],
        random: Callable[[int], bytes] = secrets.token_bytes,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._http = http
        self._engine = engine
        self._keyring = keyring
        self._public_url = public_url
        self._gone = gone
        self._barred = barred
        self._random = random
        self._clock = clock
        self.one_time = one_time
        self.in_use: Mapping[str, Arranged] = {}
        self._left: list[UserOAuth] = []
        self._vault: Vault | None = None
        self._own: OwnClient | None = None

    def arrange(self, config: Config) -> Mapping[str, Arranged]:
        """Those of `config`, by tool server. Raises ConfigError for a client_key that cannot be read."""
        return {
            name: self._server(config, name, server.url or "", server.auth.oauth)
            for name, server in config.servers.items()
            if server.auth.oauth is not None
        }

    def replace(self, arranged: Mapping[str, Arranged]) -> None:
        """Make `arranged` those in use."""
        self._left = [each.credentials for each in self.in_use.values()]
        self.in_use = arranged

    def connections(self, server: str) -> Connections | None:
        """How accounts are connected at a server; None where it takes none."""
        found = self.in_use.get(server)
        return None if found is None else found.connections

    def forget(self) -> None:
        """Keep no account in memory that was disconnected."""
        for each in (*self._left, *(each.credentials for each in self.in_use.values())):
            each.forget()

    async def leave(self, place: Place, account: Account) -> None:
        """Have an account ended at its own authorization server. Raises UpstreamFailed."""
        found = self.connections(place.server)
        if found is None:
            raise UpstreamFailed("the server is not in the configuration any more")
        await found.leave(place, account)

    def own_client(self) -> OwnClient:
        """We as the client of our own metadata document; its key is made on first use."""
        if self._own is None:
            self._own = OwnClient(self._keyring.secret("client"))
        return self._own

    async def close(self) -> None:
        """Wait for refreshes under way: a refresh token that was spent must not be lost."""
        every = [*self._left, *(each.credentials for each in self.in_use.values())]
        await asyncio.gather(*(each.close() for each in every))

    def _server(self, config: Config, name: str, url: str, wanted: UserAccounts | None) -> Arranged:
        assert wanted is not None
        origins = {origin_of(named) for named in (url, wanted.issuer) if named}
        client = OAuthClient(
            url,
            wanted.resource or url,
            self._registration(config, name, wanted),
            Web(self._http.guarded, self._http.plain, origins, _check(config.dev), wanted.timeout),
            issuer=wanted.issuer,
            clock=time.monotonic,
        )
        vault = self.vault()
        credentials = UserOAuth(
            name,
            client,
            vault,
            self._invite,
            gone=self._gone,
            barred=self._barred,
            clock=self._clock,
            lists=wanted.lists == "connected",
        )
        connections = Connections(
            name,
            client,
            vault,
            self.one_time,
            redirect_uri(self._public_url, name),
            wanted.scope,
            clock=self._clock,
            random=self._random,
        )
        return Arranged(credentials, connections)

    def vault(self) -> Vault:
        """Where credentials are kept; its key is made on first use."""
        if self._vault is None:
            keys = self._vault_keys
            self._vault = Vault(self._engine, keys(), self._random, self._clock, keys)
        return self._vault

    def _vault_keys(self) -> dict[str, bytes]:
        return {secret_kid(key): key for key in self._keyring.secrets("vault")}

    def _invite(self, user: Subject, server: str, scopes: frozenset[str]) -> str:
        """A link by which `user` alone can connect at `server`, once; blocks on the disk."""
        secret = secrets.token_urlsafe(32)
        payload = {"iss": user.iss, "sub": user.sub, "server": server, "scopes": sorted(scopes)}
        self.one_time.put(LINK, secret, payload, int(self._clock()) + LINK_SECONDS)
        return f"{self._public_url}/oauth/connect/{server}?link={secret}"

    def _registration(self, config: Config, name: str, wanted: UserAccounts) -> OwnRegistration:
        """Who we are there. Raises ConfigError for a client_key that cannot be read."""
        client_id = wanted.client_id
        if client_id is None:
            document = f"{self._public_url}/oauth/client.json"

            def by_own_key(audience: str) -> str:
                jti = secrets.token_urlsafe(16)
                return self.own_client().assertion(document, audience, self._clock(), jti)

            return OwnRegistration(document, assertion=by_own_key, by_document=True)
        if wanted.client_key is None:
            secret = wanted.client_secret
            in_body = wanted.client_auth == "client_secret_post"
            value = None if secret is None else secret.get_secret_value()
            return OwnRegistration(client_id, value, in_body)
        try:
            key = read_client_key(wanted.client_key.read_bytes(), wanted.client_key_id)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            where = ("servers", name, "auth", "oauth", "client_key")
            raise config.error(where, f"client_key cannot be used: {reason}") from None

        def by_key(audience: str) -> str:
            jti = secrets.token_urlsafe(16)
            return client_assertion(key, client_id, audience, self._clock(), jti)

        return OwnRegistration(client_id, assertion=by_key)


def connect_endpoint(
    accounts: ConnectedAccounts,
    browser: Browser,
    parts: Parts,
    config: Callable[[], Config],
    connected: Callable[[str], None],
) -> ConnectEndpoint:
    """Where users connect their accounts. `config` gives what is in use now, as reloads swap it."""
    return ConnectEndpoint(
        parts.issuer,
        browser,
        accounts.one_time,
        accounts.connections,
        lambda: accounts.in_use,
        lambda user, server: borrowers(config(), user, server),
        STATE,
        check_state,
        connected,
        lambda: accounts.own_client().jwks(),
        parts.recorder,
        parts.clock,
        parts.trusted_proxies,
    )


def borrowers(config: Config, user: Subject, server: str) -> tuple[str, ...]:
    """The agents that a grant lets use this user's account at `server` while they act for themselves."""
    whose = f"{user.iss}|{user.sub}"
    found = {
        name.removeprefix("agent:")
        for grant in config.grants
        if grant.account_of == whose and _speaks_of(grant.tools, server)
        for name in grant.users or ()
    }
    return tuple(sorted(found))


def _speaks_of(patterns: tuple[str, ...] | None, server: str) -> bool:
    halves = (pattern.partition("/")[0] for pattern in patterns or ())
    return any("*" in half or half == server for half in halves)


def _check(dev: bool) -> Callable[[str], None]:
    def check(url: str) -> None:
        try:
            check_url(url, dev)
        except IssuerUnusable as error:
            raise UpstreamFailed(str(error)) from None

    return check
