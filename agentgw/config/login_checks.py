"""What must hold between `login` and the rest of a configuration."""

from __future__ import annotations

from collections.abc import Iterator

from agentgw.config.model import Config
from agentgw.config.problems import did_you_mean
from agentgw.config.source import Loc
from agentgw.config.values import is_loopback, split_url

Found = tuple[Loc, str, str]
"""Where, what is wrong, and what would mend it."""


def check_login(config: Config) -> Iterator[Found]:
    """Every problem with signing in."""
    yield from _check_clients(config)
    login = config.login
    if login is None:
        return
    if login.issuer not in config.issuers:
        hint = did_you_mean(login.issuer, config.issuers)
        yield ("login", "issuer"), f"unknown issuer {login.issuer!r}", hint
    public = split_url(config.public_url)
    if public.scheme == "http" and not is_loopback(public.hostname or ""):
        yield (
            ("login",),
            "browsers would send their session in plain text: public_url is http beyond loopback",
            "use https",
        )
    for name, agent in config.agents.items():
        for index, client in enumerate(agent.clients):
            if (client.issuer, client.client_id) == (login.issuer, login.client_id):
                yield (
                    ("agents", name, "clients", index),
                    f"this client is the gateway's own, where users sign in, and no agent {name}",
                    "register another client for one of the two",
                )


def _check_clients(config: Config) -> Iterator[Found]:
    """A client must be one agent, or what it may would depend on the order of a file."""
    dynamic: str | None = None
    patterns: dict[str, str] = {}
    for name, agent in config.agents.items():
        if agent.login is None:
            continue
        loc = ("agents", name, "login")
        if config.login is None:
            hint = "add `login`: where users sign in"
            yield loc, "users cannot sign in: the configuration has no login section", hint
        if agent.login.dynamic and dynamic is not None:
            message = f"clients that register themselves are {dynamic} already"
            yield (*loc, "dynamic"), message, "let one agent have dynamic: true"
        dynamic = name if agent.login.dynamic else dynamic
        for index, pattern in enumerate(agent.login.client_metadata):
            other = patterns.setdefault(pattern, name)
            if other != name:
                message = f"the clients {pattern!r} are {other} already"
                yield (*loc, "client_metadata", index), message, "name them at one agent"
