"""What must hold between tool servers and the authorization servers whose tokens they take."""

from __future__ import annotations

from collections.abc import Iterator

from agentgw.config.external_sts import Exchange
from agentgw.config.model import Config
from agentgw.config.problems import did_you_mean
from agentgw.config.source import Loc
from agentgw.config.values import is_loopback, split_url
from agentgw.core.grant_syntax import parse_account_of, parse_users

Found = tuple[Loc, str, str]
"""Where, what is wrong, and what would mend it."""

_URLS = ("issuer", "token_endpoint", "jwks_uri", "introspection_endpoint")


def check_external_sts(config: Config) -> Iterator[Found]:
    """Every problem with authorization servers that are not ours, and with who uses them."""
    yield from _check_servers_themselves(config)
    audiences: dict[tuple[str, str], str] = {}
    for name, server in config.servers.items():
        wanted = server.auth.exchange or server.auth.client_credentials
        if wanted is None:
            continue
        loc: Loc = ("servers", name, "auth", server.auth.mode)
        yield from _check_named(config, (*loc, "authorization_server"), wanted.authorization_server)
        if isinstance(wanted, Exchange) and wanted.via is not None:
            yield from _check_named(config, (*loc, "via"), wanted.via)
            if wanted.via == wanted.authorization_server:
                yield (
                    (*loc, "via"),
                    "the same server twice",
                    "one step is enough: grant: token-exchange",
                )
        taken = (wanted.authorization_server, wanted.expected_audience)
        first = audiences.setdefault(taken, name)
        if first != name:
            yield (
                (*loc, "audience"),
                f"the audience of {name} is that of {first} too",
                "give each server an audience of its own: a token for one must not open the other",
            )


def check_user_accounts(config: Config) -> Iterator[Found]:
    """Every problem with servers at which users connect accounts of their own."""
    for name, server in config.servers.items():
        wanted = server.auth.oauth
        if wanted is None:
            continue
        loc: Loc = ("servers", name, "auth", "oauth")
        if wanted.issuer == config.public_url:
            yield (*loc, "issuer"), "is the gateway itself", "use auth: {mode: token}"
        parts = None if wanted.issuer is None else split_url(wanted.issuer)
        if parts is not None and not config.dev:
            if parts.scheme == "http" or is_loopback(parts.hostname or ""):
                yield (
                    (*loc, "issuer"),
                    "issuer is plain http or loopback",
                    "use https; dev: true allows it on a machine of your own",
                )
    plain = any(issuer.subject == "plain" for issuer in config.issuers.values())
    for index, grant in enumerate(config.grants):
        try:
            named = None
            if grant.account_of is not None and grant.users is not None:
                named = parse_users(grant.users, config.issuers, plain)
            parse_account_of(grant.account_of, named, grant.deny, config.issuers)
        except ValueError as error:
            yield ("grants", index, "account_of"), str(error), ""


def _check_servers_themselves(config: Config) -> Iterator[Found]:
    for name, server in config.authorization_servers.items():
        loc: Loc = ("authorization_servers", name)
        if server.issuer == config.public_url:
            yield (*loc, "issuer"), "is the gateway itself", "use auth: {mode: token}"
        for field in _URLS:
            url = getattr(server, field)
            parts = None if url is None else split_url(url)
            if parts is None or config.dev:
                continue
            if parts.scheme == "http" or is_loopback(parts.hostname or ""):
                yield (
                    (*loc, field),
                    f"{field} is plain http or loopback",
                    "use https; dev: true allows it on a machine of your own",
                )


def _check_named(config: Config, loc: Loc, name: str) -> Iterator[Found]:
    known = config.authorization_servers
    if name not in known:
        yield loc, f"unknown authorization server {name!r}", did_you_mean(name, known)
