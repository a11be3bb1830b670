"""Signing in, put together from the configuration."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from pathlib import Path

from starlette.routing import Route

from agentgw.app import convert
from agentgw.app.authorization_server import Parts
from agentgw.app.connected_accounts import ConnectedAccounts
from agentgw.app.issuer_keys import IssuerKeys
from agentgw.app.outbound import HttpClients
from agentgw.audit.recent import recent_events
from agentgw.authz.relying_party import RelyingParty
from agentgw.authz.sign_ins import SignIns
from agentgw.config.login import Login
from agentgw.config.model import Config
from agentgw.core.principal import Inbound
from agentgw.core.recheck import sign_in_key
from agentgw.core.sign_in import LoginRules
from agentgw.http.account import Account
from agentgw.http.browser import Browser
from agentgw.http.disconnect import Disconnecting
from agentgw.http.seal import Seal
from agentgw.http.sign_in import SignIn
from agentgw.identity.authorization_server import ClientAccount
from agentgw.identity.provider import OpenIdProvider
from agentgw.registry.vault import VaultRows
from agentgw.sts.client_assertion import client_assertion, read_client_key


class LoginPages:
    """Signing in and the account page. Without `login` in the configuration they exist for nobody.

    `browser` serves whoever else has pages for people. `http` is shared and stays its owner's, as do
    the `keys`; `accounts` are those that users connect, and their vault keeps what the provider
    gives us, of which `rows` tells without opening it. Raises ConfigError as `relying_party` does.
    """

    def __init__(
        self,
        config: Config,
        parts: Parts,
        http: HttpClients,
        keys: IssuerKeys,
        accounts: ConnectedAccounts,
        rows: VaultRows,
    ) -> None:
        self._http = http
        self._keys = keys
        self._accounts = accounts
        self._party: RelyingParty | None = None
        self.use(config, self.arrange(config))
        self.browser = Browser(
            config.public_url,
            Seal(parts.keyring.secret("cookies"), secrets.token_bytes),
            parts.one_time,
            lambda: self._party,
            lambda renewable: session_life(self._config, renewable),
            parts.clock,
            secrets.token_bytes,
            lambda sid: parts.revoked.has_token(Inbound(parts.issuer, sign_in_key(sid), "")),
        )
        self.sign_ins = SignIns(
            accounts.vault,
            lambda: self._party,
            lambda: convert.recheck_bounds(self._config),
            recorder=parts.recorder,
            clock=parts.clock,
        )
        self.routes = self._faces(config.state_dir / "log", parts, rows)

    def _faces(self, log: Path, parts: Parts, rows: VaultRows) -> list[Route]:
        sign_in = SignIn(
            self.browser,
            parts.one_time,
            self.sign_ins.keep,
            barred=lambda person: parts.revoked.party(person.subject, ()),
            recorder=parts.recorder,
            refused=parts.refused,
            clock=parts.clock,
            trusted_proxies=parts.trusted_proxies,
        )
        disconnecting = Disconnecting(
            self.browser,
            rows,
            self._accounts.vault,
            parts.store,
            self._accounts.leave,
            refresh=parts.refresh,
            recorder=parts.recorder,
            clock=parts.clock,
            trusted_proxies=parts.trusted_proxies,
        )
        account = Account(
            self.browser,
            parts.ledger,
            parts.store,
            recent=lambda who, count: recent_events(log, who.iss, who.sub, count),
            connected=disconnecting.shown,
            refresh=parts.refresh,
            recorder=parts.recorder,
            clock=parts.clock,
            trusted_proxies=parts.trusted_proxies,
        )
        faces = (sign_in, account, disconnecting)
        return [route for face in faces for route in face.routes()]

    def arrange(self, config: Config) -> RelyingParty | None:
        """Where people sign in by `config`, to be given to `use`. Raises ConfigError."""
        if config.login is not None:
            self._accounts.vault()  # its key is read now, and not while somebody waits for a page
        return relying_party(config, self._http, self._keys)

    def use(self, config: Config, party: RelyingParty | None) -> None:
        """Take on a configuration; cannot fail."""
        self._party = party
        self._config = config


def session_life(config: Config, renewable: bool) -> int:
    """How long a browser stays signed in: no longer than a login that begins there may last."""
    if config.login is None:
        return 0
    life = config.login.session_life
    return life if renewable else min(life, config.login.max_age)


def relying_party(config: Config, http: HttpClients, keys: IssuerKeys) -> RelyingParty | None:
    """The code flow at `login.issuer`; None where nobody signs in. Raises ConfigError for a client_key
    that cannot be read."""
    login = config.login
    if login is None:
        return None
    issuer = next(rule for rule in convert.issuer_rules(config) if rule.alias == login.issuer)
    secret = None if login.client_secret is None else login.client_secret.get_secret_value()
    assertion = _assertions(config, login)
    rules = LoginRules(
        issuer,
        login.client_id,
        login.scope,
        config.public_url,
        secret is not None or assertion is not None,
        config.dev,
        login.offline_access,
    )
    provider = OpenIdProvider(
        issuer.issuer,
        ClientAccount(login.client_id, secret, assertion=assertion),
        http.of(issuer.issuer, issuer.jwks_uri),
        keys.at((issuer.issuer, issuer.jwks_uri), config.dev),
        dev=config.dev,
    )
    return RelyingParty(rules, provider, time.time)


def _assertions(config: Config, login: Login) -> Callable[[], str] | None:
    """What makes our client assertions; None without a key. Raises ConfigError."""
    if login.client_key is None:
        return None
    try:
        key = read_client_key(login.client_key.read_bytes(), login.client_key_id)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise config.error(
            ("login", "client_key"), f"client_key cannot be used: {reason}"
        ) from None
    audience = config.issuers[login.issuer].issuer
    return lambda: client_assertion(
        key, login.client_id, audience, time.time(), secrets.token_urlsafe(16)
    )
