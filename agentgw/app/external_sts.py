"""The credentials of tool servers that take those of another authorization server, from the configuration."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from weakref import WeakSet

from agentgw.app import convert
from agentgw.app.issuer_keys import IssuerKeys
from agentgw.app.outbound import HttpClients
from agentgw.config.external_sts import AuthorizationServer as ServerConfig
from agentgw.config.external_sts import Exchange
from agentgw.config.external_sts import OwnAccount as OwnAccountConfig
from agentgw.config.model import Config
from agentgw.core.external_exchange import ExternalRules
from agentgw.core.principal import Caller
from agentgw.identity.authorization_server import AuthorizationServer, ClientAccount
from agentgw.identity.introspection import Introspection
from agentgw.sts.client_assertion import client_assertion, read_client_key
from agentgw.upstream.external_sts import ExternalSts
from agentgw.upstream.own_account import OwnAccount


class ExternalCredentials:
    """Makes the credentials of servers with `auth.mode: exchange` or `client_credentials`; a reload makes all
    of them anew.

    `http` is shared and stays its owner's; `sign` signs a grant of ours with a `typ`; `revoked` tells
    of callers for whom nothing may be kept.
    """

    def __init__(
        self,
        http: HttpClients,
        sign: Callable[[Mapping[str, Any], str], Awaitable[bytes]],
        revoked: Callable[[Caller], bool],
    ) -> None:
        self._http = http
        self._sign = sign
        self._revoked = revoked
        self._keys = IssuerKeys(http)
        self._made: WeakSet[ExternalSts] = WeakSet()

    def arrange(self, config: Config) -> Mapping[str, ExternalSts | OwnAccount]:
        """Those of `config`, by tool server. Raises ConfigError for a client_key that cannot be read."""
        asked = {
            name: self._server(config, name, server)
            for name, server in config.authorization_servers.items()
        }
        arranged: dict[str, ExternalSts | OwnAccount] = {}
        for name, server in config.servers.items():
            if (wanted := server.auth.exchange) is not None:
                rules = external_rules(config, name, wanted)
                first, last = wanted.via, wanted.authorization_server
                own = wanted.lists == "client_credentials"
                arranged[name] = self._sts(config, rules, asked[first or last], asked[last], own)
            elif (account := server.auth.client_credentials) is not None:
                its = asked[account.authorization_server]
                rules = own_account_rules(config, name, account)
                arranged[name] = OwnAccount(self._sts(config, rules, its, its, True))
        return arranged

    def _sts(
        self,
        config: Config,
        rules: ExternalRules,
        first: AuthorizationServer,
        last: AuthorizationServer,
        own: bool,
    ) -> ExternalSts:
        made = ExternalSts(
            rules,
            first,
            last,
            policy_version=convert.policy_version(config),
            sign=lambda claims: self._sign(claims, "JWT"),
            clock=time.time,
            random=secrets.token_bytes,
            revoked=self._revoked,
            deadline=config.authorization_servers[rules.name].timeout,
            own=own,
        )
        self._made.add(made)
        return made

    def forget(self, which: Callable[[Caller], bool]) -> None:
        """Keep nothing more of the callers that `which` picks."""
        for external in self._made:
            external.forget(which)

    async def close(self) -> None:
        """Stop what is under way."""
        waiting = [external.close() for external in self._made]
        await asyncio.gather(*waiting, self._keys.close())

    def _server(self, config: Config, name: str, wanted: ServerConfig) -> AuthorizationServer:
        secret = None if wanted.client_secret is None else wanted.client_secret.get_secret_value()
        introspector = None
        named = (wanted.token_endpoint, wanted.introspection_endpoint, wanted.jwks_uri)
        client = self._http.of(wanted.issuer, *named)
        if wanted.tokens == "introspection":
            introspector = Introspection(
                wanted.issuer,
                client,
                wanted.client_id,
                secret or "",
                endpoint=wanted.introspection_endpoint,
                dev=config.dev,
            )
        return AuthorizationServer(
            wanted.issuer,
            ClientAccount(
                wanted.client_id,
                secret,
                wanted.client_auth == "client_secret_post",
                _assertions(config, name, wanted),
            ),
            client,
            keys=self._keys.at((wanted.issuer, wanted.jwks_uri), config.dev),
            reading=wanted.tokens,
            introspector=introspector,
            endpoint=wanted.token_endpoint,
            dev=config.dev,
            deadline=wanted.timeout,
        )


def external_rules(config: Config, server: str, wanted: Exchange) -> ExternalRules:
    """The rules by which one tool server's credentials are had and judged."""
    last = config.authorization_servers[wanted.authorization_server]
    first = config.authorization_servers[wanted.via or wanted.authorization_server]
    aliases = [alias for alias, issuer in config.issuers.items() if issuer.issuer == first.issuer]
    agents = {
        config.agent_id(name): frozenset(
            client.client_id for client in agent.clients if client.issuer in aliases
        )
        for name, agent in config.agents.items()
    }
    return ExternalRules(
        server,
        wanted.authorization_server,
        last.issuer,
        last.client_id,
        first.issuer,
        wanted.grant,
        wanted.subject,
        wanted.expected_audience,
        config.public_url,
        wanted.audience,
        wanted.resource,
        wanted.scope,
        frozenset(wanted.allowed_scopes),
        subject_claim=wanted.subject_claim,
        users=aliases[0] if aliases else None,
        agents=agents,
        act_optional=wanted.act == "optional",
        outlive=wanted.outlive,
        token_limit=config.limits.token,
    )


def own_account_rules(config: Config, server: str, wanted: OwnAccountConfig) -> ExternalRules:
    """The rules by which the one account of a tool server is had and judged."""
    its = config.authorization_servers[wanted.authorization_server]
    return ExternalRules(
        server,
        wanted.authorization_server,
        its.issuer,
        its.client_id,
        its.issuer,
        "token-exchange",
        "gateway",
        wanted.expected_audience,
        config.public_url,
        wanted.audience,
        wanted.resource,
        wanted.scope,
        frozenset(wanted.allowed_scopes),
        token_limit=config.limits.token,
    )


def _assertions(config: Config, name: str, wanted: ServerConfig) -> Callable[[], str] | None:
    """What makes our client assertions; None where we have a secret. Raises ConfigError."""
    if wanted.client_key is None:
        return None
    try:
        key = read_client_key(wanted.client_key.read_bytes(), wanted.client_key_id)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        where = ("authorization_servers", name, "client_key")
        raise config.error(where, f"client_key cannot be used: {reason}") from None
    audience = wanted.assertion_audience or wanted.issuer
    return lambda: client_assertion(
        key, wanted.client_id, audience, time.time(), secrets.token_urlsafe(16)
    )
