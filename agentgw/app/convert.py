"""From the configuration to the plain values each room takes."""

from __future__ import annotations

from ipaddress import ip_network

from agentgw.config.agents import ClientCredentials
from agentgw.config.model import Config
from agentgw.core.actor import AgentRules, ClientRule
from agentgw.core.addresses import Network
from agentgw.core.claims import IssuerRules, map_audiences
from agentgw.core.exchange import ExchangeAgent, ExchangeRules
from agentgw.core.grant_syntax import parse_row
from agentgw.core.recheck import Bounds
from agentgw.policy.cel import compile_condition
from agentgw.policy.grants import GrantsPolicy
from agentgw.sts.algorithms import ES256


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
            agent.require,
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
            _own_scopes(agent.client_credentials),
            agent.require,
        )
        for name, agent in config.agents.items()
    }
    paths = ["/mcp", *(f"/mcp/{server}" for server in config.servers)]
    resources = frozenset(config.public_url + path for path in paths)
    return ExchangeRules(
        config.public_url,
        resources,
        agents,
        config.sts.token_life,
        config.sts.max_siblings,
        config.sts.receipts is not None,
        {
            server.audience: server.agent
            for server in config.servers.values()
            if server.agent is not None and server.audience is not None
        },
        frozenset(alias for alias, issuer in config.issuers.items() if issuer.id_jag),
        let_in(config),
    )


def let_in(config: Config) -> frozenset[str]:
    """The agents that users can sign in for."""
    if config.login is None:
        return frozenset()
    return frozenset(name for name, agent in config.agents.items() if agent.login is not None)


def authorization_servers(config: Config) -> tuple[str, ...]:
    """Who issues tokens for our resources: the issuers of users, and we for agents with no user or with
    an identity assertion. Where users sign in here we come first, since clients take the first."""
    issuers = [issuer.issuer for issuer in config.issuers.values()]
    if config.login is not None:
        return (config.public_url, *issuers)
    by_assertion = any(issuer.id_jag for issuer in config.issuers.values())
    if by_assertion or any(
        agent.client_credentials is not None for agent in config.agents.values()
    ):
        issuers.append(config.public_url)
    return tuple(issuers)


def refresh_life(config: Config) -> int:
    """How long a refresh token may lie unused, in seconds."""
    return 0 if config.login is None else config.login.refresh_life


def recheck_bounds(config: Config) -> Bounds:
    """How long what the identity provider said counts; nothing does where nobody signs in."""
    login = config.login
    if login is None:
        return Bounds(0, 0, 0, 0)
    longest = login.consent_life + login.session_life
    return Bounds(login.recheck, login.recheck_limit, login.max_age, longest)


def consent_life(config: Config) -> int:
    """How long a consent may last, in seconds."""
    return 0 if config.login is None else config.login.consent_life


def server_of(config: Config, resource: str) -> str | None:
    """The server of a resource URL of ours, None for the union of all."""
    return resource.removeprefix(f"{config.public_url}/mcp").removeprefix("/") or None


def _own_scopes(own: ClientCredentials | None) -> frozenset[str] | None:
    return None if own is None else frozenset((own.scope or "").split())


def keeps_token(config: Config) -> frozenset[str | None]:
    """The servers (None: the union) whose credentials are had by showing the caller's own token."""
    shown = {
        name
        for name, server in config.servers.items()
        if server.auth.exchange is not None and server.auth.exchange.subject == "caller"
    }
    return frozenset({None, *shown}) if shown else frozenset()


def outbound_networks(config: Config) -> tuple[Network, ...]:
    """The networks that URLs named by others may lead to besides public addresses."""
    own = (ip_network("127.0.0.0/8"), ip_network("::1/128")) if config.dev else ()
    return (*config.outbound.private_networks, *own)


def undiscovered(config: Config) -> frozenset[str | None]:
    """The servers (None: the union) whose paths say nothing of OAuth."""
    hidden: set[str | None] = {name for name, it in config.servers.items() if not it.discovery}
    return frozenset(hidden if config.discovery else hidden | {None})


def says_nothing_of_oauth(config: Config) -> bool:
    """Whether no path does, `/mcp` and every server's."""
    return undiscovered(config) == {None, *config.servers}


def token_algorithms(config: Config) -> frozenset[str]:
    """What we sign tokens with: our own endpoints' by ES256, each server's as it asks."""
    return frozenset({ES256, *(server.token.alg for server in config.servers.values())})


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
