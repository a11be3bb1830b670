"""What must hold between the parts of a configuration. Pure: each check yields the problems it finds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from agentgw.config.client_auth_checks import check_client_auth
from agentgw.config.external_sts_checks import check_external_sts, check_user_accounts
from agentgw.config.login_checks import check_login
from agentgw.config.model import Config
from agentgw.config.problems import did_you_mean
from agentgw.config.servers import Server
from agentgw.config.source import Loc
from agentgw.config.values import is_loopback, is_public, is_too_wide, split_url
from agentgw.core.claims import is_resource
from agentgw.core.grant_syntax import parse_users
from agentgw.core.grants import KINDS
from agentgw.policy.cel import compile_condition

ACCEPTABLE_EVIDENCE = ("client-claim", "client-auth")
"""What `agentgw.core.actor` asks an issuer's accept_evidence for."""

FOUND_EVIDENCE = ("client-claim", "act-claim", "client-auth", "exchange", "dpop", "mtls")
"""What `agentgw.core.actor` and `agentgw.core.exchange` find of an agent."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with the value at `loc`."""

    loc: Loc
    message: str
    hint: str = ""


def check(config: Config) -> Iterator[Problem]:
    """Every problem of a configuration whose parts are sound by themselves."""
    yield from _check_exposure(config)
    if config.limits.sessions_per_agent is not None:
        yield _unavailable(
            ("limits", "sessions_per_agent"),
            "sessions_per_agent",
            "leave it out; a session takes no memory",
        )
    yield from (Problem(*found) for found in check_client_auth(config))
    yield from _check_issuers(config)
    yield from _check_introspection(config)
    yield from (Problem(*found) for found in check_login(config))
    yield from _check_agents(config)
    yield from _check_servers(config)
    yield from (Problem(*found) for found in check_external_sts(config))
    yield from (Problem(*found) for found in check_user_accounts(config))
    yield from _check_grants(config)


def _unavailable(loc: Loc, what: str, hint: str) -> Problem:
    """Planned but not built: refused, so that nobody believes in it."""
    return Problem(loc, f"{what} is not available in this version", hint)


def _check_exposure(config: Config) -> Iterator[Problem]:
    """Plain http stays at home, and dev mode never meets the public."""
    public = split_url(config.public_url)
    host = public.hostname or ""
    if config.dev and is_public(host):
        yield Problem(("dev",), "dev: true with a public public_url", "leave dev out")
    if public.scheme == "http" and not (config.dev or config.insecure or is_loopback(host)):
        yield Problem(("public_url",), "public_url is plain http beyond loopback", "use https")
    for index, network in enumerate(config.trusted_proxies):
        if is_too_wide(network):
            yield Problem(
                ("trusted_proxies", index),
                "trusts every address, or nearly",
                "name the proxy's network",
            )
    for index, network in enumerate(config.outbound.private_networks):
        if is_too_wide(network):
            yield Problem(
                ("outbound", "private_networks", index),
                "covers so much that nothing would be refused any more",
                "name the networks that others may lead the gateway to",
            )
    address = config.address
    protected = config.tls or config.trusted_proxies or config.insecure
    if isinstance(address, tuple) and not is_loopback(address[0]) and not protected:
        yield Problem(
            ("listen",),
            "listens beyond loopback without TLS",
            "set tls, or trusted_proxies for a terminator; --insecure if you mean it",
        )


def _check_issuers(config: Config) -> Iterator[Problem]:
    plain = [alias for alias, issuer in config.issuers.items() if issuer.subject == "plain"]
    for alias in plain[1:]:
        yield Problem(
            ("issuers", alias, "subject"),
            f"subject: plain again, after {plain[0]}",
            "one may have it",
        )
    seen: dict[str, str] = {}
    for alias, issuer in config.issuers.items():
        loc: Loc = ("issuers", alias)
        first = seen.setdefault(issuer.issuer, alias)
        if first != alias:
            yield Problem((*loc, "issuer"), f"the same issuer as {first}", "give it one alias")
        if issuer.issuer == config.public_url:
            yield Problem((*loc, "issuer"), "is the gateway itself", "its own tokens need no entry")
        for field, url in (("issuer", issuer.issuer), ("jwks_uri", issuer.jwks_uri)):
            if url is not None and not config.dev and _is_homely(url):
                yield Problem(
                    (*loc, field),
                    f"{field} is plain http or loopback",
                    "use https; dev: true allows it on a machine of your own",
                )
        if issuer.user_claim == "email" and not issuer.email_domains:
            yield Problem((*loc, "user_claim"), "user_claim: email needs email_domains")
        for index, evidence in enumerate(issuer.accept_evidence):
            if evidence not in ACCEPTABLE_EVIDENCE:
                yield _unavailable(
                    (*loc, "accept_evidence", index),
                    f"accept_evidence: {evidence}",
                    f"use {' or '.join(ACCEPTABLE_EVIDENCE)}",
                )
        if isinstance(issuer.audiences, Mapping):
            for resource in issuer.audiences:
                yield from _check_resource(config, (*loc, "audiences", resource), resource)


def _check_introspection(config: Config) -> Iterator[Problem]:
    """One issuer may be asked about opaque tokens: the others would be shown what is not theirs."""
    first: str | None = None
    for alias, issuer in config.issuers.items():
        asked, loc = issuer.introspection, ("issuers", alias, "introspection")
        if asked is None:
            continue
        if asked.endpoint is not None and not config.dev and _is_homely(asked.endpoint):
            yield Problem(
                (*loc, "endpoint"),
                "endpoint is plain http or loopback",
                "use https; dev: true allows it on a machine of your own",
            )
        if asked.tokens == "jwt":
            continue
        if first is not None:
            yield Problem(
                loc,
                f"opaque tokens name no issuer, and {first} is asked about them already",
                "one issuer may be; write tokens: jwt here",
            )
        first = alias


def _check_resource(config: Config, loc: Loc, resource: str) -> Iterator[Problem]:
    union = f"{config.public_url}/mcp"
    server = resource.removeprefix(union + "/")
    if not is_resource(resource, config.public_url):
        yield Problem(
            loc, "audiences names no resource of this gateway", f"write {union} or {union}/SERVER"
        )
    elif resource != union and server not in config.servers:
        yield Problem(loc, f"unknown server {server!r}", did_you_mean(server, config.servers))


def _is_homely(url: str) -> bool:
    parts = split_url(url)
    return parts.scheme == "http" or is_loopback(parts.hostname or "")


def _check_agents(config: Config) -> Iterator[Problem]:
    claimed: dict[tuple[str, str], str] = {}
    for name, agent in config.agents.items():
        loc: Loc = ("agents", name)
        for index, other in enumerate(agent.may_hand_to):
            yield from _check_agent(config, (*loc, "may_hand_to", index), other)
            if other == name:
                yield Problem((*loc, "may_hand_to", index), f"{name} may not hand to itself")
        for index, client in enumerate(agent.clients):
            yield from _check_issuer(config, (*loc, "clients", index, "issuer"), client.issuer)
            first = claimed.setdefault((client.issuer, client.client_id), name)
            if first != name:
                yield Problem(
                    (*loc, "clients", index),
                    f"this client already means the agent {first}",
                    "a client means one agent",
                )
        for index, source in enumerate(agent.subject_from):
            yield from _check_issuer(config, (*loc, "subject_from", index, "issuer"), source.issuer)


def _check_agent(config: Config, loc: Loc, name: str) -> Iterator[Problem]:
    if name not in config.agents:
        yield Problem(loc, f"unknown agent {name!r}", did_you_mean(name, config.agents))


def _check_issuer(config: Config, loc: Loc, alias: str) -> Iterator[Problem]:
    if alias not in config.issuers:
        yield Problem(loc, f"unknown issuer {alias!r}", did_you_mean(alias, config.issuers))


def _check_servers(config: Config) -> Iterator[Problem]:
    ours = _normal(config.public_url)
    audiences: dict[str, str] = {}
    for name, server in config.servers.items():
        loc: Loc = ("servers", name)
        if server.agent is not None:
            yield from _check_agent(config, (*loc, "agent"), server.agent)
            yield from _check_agent_behind((*loc, "agent"), server)
        if server.url is not None:
            parts = split_url(server.url)
            tame = config.dev or config.insecure or is_loopback(parts.hostname or "")
            if parts.scheme == "http" and not tame:
                yield Problem(
                    (*loc, "url"),
                    "the url is plain http beyond loopback",
                    "use https; insecure: true or dev: true allow it",
                )
            if _lies_under(_normal(server.url), ours):
                yield Problem((*loc, "url"), "the url lies under public_url, the gateway itself")
        if server.audience is None:
            continue
        audience = _normal(server.audience)
        where = (*loc, "auth", "audience")
        if _lies_under(audience, ours):
            yield Problem(where, "the audience lies under public_url")
        first = audiences.setdefault(audience, name)
        if first != name:
            yield Problem(
                where,
                f"the audience of {name} is that of {first} too",
                "give each server an audience of its own",
            )


def _check_agent_behind(loc: Loc, server: Server) -> Iterator[Problem]:
    """An agent behind a server needs tokens that it can exchange."""
    if server.audience is None:
        yield Problem(loc, "the server gets no tokens of ours", "set auth: {mode: token}")
    elif server.token.typ != "at+jwt":
        yield Problem(loc, "tokens to exchange have typ at+jwt", "leave token.typ out")


def _normal(url: str) -> str:
    """Scheme and host in lower case, no default port, no trailing slash (RFC 3986 section 6.2)."""
    parts = split_url(url)
    default = {"http": 80, "https": 443}[parts.scheme]
    port = "" if parts.port in (None, default) else f":{parts.port}"
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path.rstrip('/')}{query}"


def _lies_under(url: str, origin: str) -> bool:
    return url == origin or url.startswith((origin + "/", origin + "?"))


def _check_grants(config: Config) -> Iterator[Problem]:
    plain = any(issuer.subject == "plain" for issuer in config.issuers.values())
    names: dict[str, int] = {}
    for index, grant in enumerate(config.grants):
        loc: Loc = ("grants", index)
        first = names.setdefault(grant.id, index)
        if first != index:
            yield Problem((*loc, "id"), f"the id {grant.id!r} is that of row {first + 1} too")
        for position, agent in enumerate(grant.agents or ()):
            if agent != "*":
                yield from _check_agent(config, (*loc, "agents", position), agent)
        for position, user in enumerate(grant.users or ()):
            yield from _check_user(config, (*loc, "users", position), user, plain)
        for kind in KINDS:
            for position, pattern in enumerate(getattr(grant, kind) or ()):
                server = pattern.partition("/")[0]
                if "*" not in server and server not in config.servers:
                    yield Problem(
                        (*loc, kind, position),
                        f"unknown server {server!r}",
                        did_you_mean(server, config.servers),
                    )
        if grant.min_evidence is not None and grant.min_evidence not in FOUND_EVIDENCE:
            yield _unavailable(
                (*loc, "min_evidence"),
                f"min_evidence: {grant.min_evidence}",
                f"use one of {', '.join(FOUND_EVIDENCE)}",
            )
        if grant.when is not None:
            yield from _check_condition((*loc, "when"), grant.when)


def _check_user(config: Config, loc: Loc, user: str, plain: bool) -> Iterator[Problem]:
    try:
        named = parse_users([user], config.issuers, plain)
    except ValueError as error:
        yield Problem(loc, str(error))
        return
    for acting in named.agents:
        yield from _check_agent(config, loc, acting)


def _check_condition(loc: Loc, source: str) -> Iterator[Problem]:
    try:
        compile_condition(source)
    except ValueError as error:
        yield Problem(loc, str(error))
