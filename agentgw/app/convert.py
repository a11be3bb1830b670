"""From the configuration to the plain values each room takes."""

from __future__ import annotations

from collections.abc import Mapping

from agentgw.config.model import Config
from agentgw.core.actor import AgentRules, ClientRule
from agentgw.core.claims import IssuerRules, map_audiences
from agentgw.core.exchange import ExchangeAgent, ExchangeRules
from agentgw.core.grant_syntax import parse_row
from agentgw.identity.jwk import UnusableKey, VerifyKey, read_jwk
from agentgw.policy.cel import compile_condition
from agentgw.policy.grants import GrantsPolicy
from agentgw.sts.clients import Client


def issuer_rules(config: Config) -> tuple[IssuerRules, ...]:
    """What of each issuer's tokens we believe."""
    return tuple(
        IssuerRules(
            alias,
            issuer.issuer,
            map_audiences(issuer.audiences, config.public_url),
            frozenset(issuer.tolerated_audiences),
            issuer.groups_claim,
            issuer.subject,
            issuer.user_claim,
            frozenset(domain.lower() for domain in issuer.email_domains),
            issuer.may_assert_act,
            frozenset(issuer.accept_evidence),
            issuer.require_typ,
            issuer.access_token_claim,
            frozenset(issuer.algorithms),
            issuer.jwks_uri,
        )
        for alias, issuer in config.issuers.items()
    )


def agent_rules(config: Config) -> tuple[AgentRules, ...]:
    """How each agent is recognised."""
    return tuple(
        AgentRules(
            name,
            config.agent_id(name),
            tuple(ClientRule(c.issuer, c.client_id, c.confidential) for c in agent.clients),
            agent.disabled,
            agent.max_depth,
        )
        for name, agent in config.agents.items()
    )


def exchange_rules(config: Config) -> ExchangeRules:
    """What decides at the token endpoint."""
    agents = {
        name: ExchangeAgent(
            name,
            config.agent_id(name),
            agent.disabled,
            agent.max_depth,
            frozenset(agent.may_hand_to),
            frozenset((client.issuer, client.client_id) for client in agent.subject_from),
        )
        for name, agent in config.agents.items()
    }
    paths = ["/mcp", *(f"/mcp/{server}" for server in config.servers)]
    resources = frozenset(config.public_url + path for path in paths)
    return ExchangeRules(config.public_url, resources, agents, config.sts.token_life)


def clients(config: Config) -> Mapping[str, Client]:
    """How each agent authenticates at the token endpoint. Raises ConfigError for an unusable key."""
    found = {}
    for name, agent in config.agents.items():
        if agent.auth is None:
            continue
        secret = agent.auth.secret
        found[name] = Client(
            name,
            None if secret is None else secret.get_secret_value(),
            _keys(config, name, agent.auth.jwks),
        )
    return found


def _keys(config: Config, name: str, jwks: Mapping[str, object] | None) -> tuple[VerifyKey, ...]:
    members = (jwks or {}).get("keys", [])
    assert isinstance(members, list)
    try:
        return tuple(read_jwk(member) for member in members)
    except UnusableKey as error:
        raise config.error(
            ("agents", name, "auth", "jwks"), f"holds an unusable key: {error}"
        ) from None


def policy(config: Config) -> GrantsPolicy:
    """The grants table, compiled. Raises ConfigError for a row that could never mean anything."""
    plain = any(issuer.subject == "plain" for issuer in config.issuers.values())
    rows = []
    for number, grant in enumerate(config.grants):
        try:
            rows.append(
                parse_row(grant.id, grant.entry(), config.issuers, plain, compile_condition)
            )
        except ValueError as error:
            raise config.error(("grants", number), str(error)) from None
    disabled = frozenset(name for name, agent in config.agents.items() if agent.disabled)
    return GrantsPolicy(rows, policy_version(config), disabled)


def policy_version(config: Config) -> str:
    """A short name for this very configuration, as records keep it."""
    return "p-" + config.digest.removeprefix("sha-256:")[:12]


def scopes_of(config: Config, server: str | None) -> tuple[str, ...]:
    """The scopes the tools of a server (None: of all) may ask for."""
    names = config.servers if server is None else [server] if server in config.servers else []
    found = {
        scope
        for name in names
        for rule in config.servers[name].tools.values()
        for scope in rule.scopes
    }
    return tuple(sorted(found))
