"""The gateway with parts of it switched off, to show what each of them costs.

Composes the same application as `agentgw serve` and then puts a part that does nothing in the place of
one that does. The product has no such switches: this is the only place that knows them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import agentgw.app
import agentgw.config
import agentgw.gateway.call
from agentgw.app import App
from agentgw.config import Config
from agentgw.core.principal import Caller
from agentgw.gateway.call import Gateway
from agentgw.gateway.incoming import Incoming, Server
from agentgw.gateway.journal import Entry, Journal
from agentgw.gateway.plan import Plan, plan_token
from agentgw.gateway.surroundings import Minter
from agentgw.http.connection import body_at_once, respond_at_once
from agentgw.http.downstream import Authenticator
from agentgw.http.request import Receive, Scope, Send, read_body
from agentgw.policy import AccessRequest, Decision, Policy
from agentgw.upstream.http import HttpOrigin

PARTS = ("verify", "verify_cache", "policy", "mint", "audit", "fsync", "everything")


class FirstCaller:
    """Verifies one token and takes every later one for the same, unread."""

    def __init__(self, real: Authenticator) -> None:
        self._real = real
        self._caller: Caller | None = None

    def lookup(self, token: bytes, now: float) -> Caller | None:
        return self._caller

    async def authenticate(self, token: bytes, now: float) -> Caller:
        self._caller = await self._real.authenticate(token, now)
        return self._caller


class Forgetful:
    """Verifies every token anew."""

    def __init__(self, real: Authenticator) -> None:
        self._real = real

    def lookup(self, token: bytes, now: float) -> Caller | None:
        return None

    async def authenticate(self, token: bytes, now: float) -> Caller:
        return await self._real.authenticate(token, now)


class AllowAll:
    """A policy without rules."""

    _ALLOW = Decision(True, None, "-")

    def __init__(self, real: Policy) -> None:
        self.version = real.version

    def decide(self, request: AccessRequest) -> Decision:
        return self._ALLOW


class OneToken:
    """Signs one token for an agent's calls and gives the same ever after."""

    def __init__(self, real: Minter) -> None:
        self._real = real
        self._token: bytes | None = None

    async def mint(
        self, claims: Mapping[str, Any], typ: str = "at+jwt", alg: str = "ES256"
    ) -> bytes:
        if "act" not in claims:
            return await self._real.mint(claims, typ, alg)
        if self._token is None:
            self._token = await self._real.mint(claims, typ, alg)
        return self._token


class NoJournal(Journal):
    """Writes nothing: neither are records made up, nor do they reach the log."""

    def begin(
        self, incoming: Incoming, server: Server | None, name: str | None, **_: Any
    ) -> tuple[Entry, Awaitable[int]]:
        caller, method = incoming.caller, incoming.message.method
        entry = Entry(incoming.event_id, None, "", method, name, caller.subject, 0.0)
        return entry, asyncio.sleep(0, 0)

    def close(self, entry: Entry, outcome: str, **_: Any) -> None:
        return None


class OnePlan:
    """Plans the claims of one call and gives the same ever after.

    `digest` says that something (the record) still wants the digest of each call's params.
    """

    def __init__(self, digest: bool) -> None:
        self._digest = digest
        self._plan: Plan | None = None

    def __call__(
        self,
        issuer: str,
        random: Callable[[int], bytes],
        caller: Caller | None,
        server: Server,
        *asked: Any,
    ) -> Plan:
        if caller is None:
            return plan_token(issuer, random, caller, server, *asked)
        if self._plan is None:
            self._plan = plan_token(issuer, random, caller, server, *asked)
        _, digest, *_ = asked
        return self._plan._replace(params_digest=digest) if self._digest else self._plan


class Relay:
    """The face and the pool of upstream connections with nothing between them: bytes in, bytes out."""

    def __init__(self, origin: HttpOrigin) -> None:
        self._origin = origin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = body_at_once(scope)
        if body is None:
            body = await read_body(receive, 1 << 22, 30)
        headers = b"".join(
            b"%b: %b\r\n" % header for header in scope["headers"] if header[0] not in _HOP_BY_HOP
        )
        deadline = asyncio.get_running_loop().time() + 60
        answer = await self._origin.open(
            b"POST", self._origin.target, headers, body, deadline=deadline, max_body=1 << 24
        )
        assert answer.complete is not None
        lines = b"content-type: " + answer.headers[b"content-type"] + b"\r\n"
        respond_at_once(scope, answer.status, lines, answer.complete)


_HOP_BY_HOP = frozenset({b"host", b"content-length", b"connection"})


def switch_off(app: App, without: Collection[str]) -> None:
    """Replace the parts of a composed application that `without` names."""
    if "everything" in without:
        url = next(iter(app.config.servers.values())).url
        assert url is not None
        vars(app.site)["_downstream"] = Relay(HttpOrigin(url))
        return
    gateway: Gateway = app.gateway
    here, door = gateway.here, app.downstream.door
    if "verify" in without:
        door = replace(door, authenticator=FirstCaller(door.authenticator))
    if "verify_cache" in without:
        door = replace(door, authenticator=Forgetful(door.authenticator))
    if "policy" in without:
        here = replace(here, policy=AllowAll(here.policy))
        door = replace(door, may_reach=lambda caller, server: True)
    if "audit" in without:
        here.journal.__class__ = NoJournal
    if "mint" in without:
        here = replace(here, minter=OneToken(here.minter))
        plan = OnePlan(digest="audit" not in without)
        vars(agentgw.gateway.call)["plan_token"] = plan
        if "audit" in without:
            vars(agentgw.gateway.call)["digest_of"] = lambda *_: ""
    gateway.here, app.downstream.door = here, door


def main() -> None:
    """Serve like `agentgw serve`, without some parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--without", required=True, help="by comma: " + ", ".join(PARTS))
    given = parser.parse_args()
    without = given.without.split(",")
    if unknown := set(without) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    if "fsync" in without:
        vars(os)["fdatasync"] = lambda descriptor: None
    serve_module = sys.modules["agentgw.app.serve"]
    build = agentgw.app.build

    async def build_without(config: Config, worker: int = 1) -> App:
        app = await build(config, worker)
        switch_off(app, without)
        return app

    vars(serve_module)["build"] = build_without
    agentgw.app.serve(lambda: agentgw.config.load(given.config, os.environ))


if __name__ == "__main__":
    main()
