"""The real rules in one process: issuers, verifier, exchange, ledger, grants, revocation; no HTTP."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import event

from agentgw.core.actor import AgentRules, ClientRule
from agentgw.core.authorization_details import OneTool, arguments_digest
from agentgw.core.claims import IssuerRules, admits
from agentgw.core.consent import Consent
from agentgw.core.exchange import ExchangeAgent, Exchanged, ExchangeRules, exchange
from agentgw.core.exchange_request import ACCESS_TOKEN, ExchangeRequest
from agentgw.core.grant_syntax import parse_row
from agentgw.core.grants import Kind
from agentgw.core.login_grants import RefreshRequest, issue_by_login
from agentgw.core.principal import Hop, Inbound, Issued, Subject
from agentgw.core.revocation import Kind as Party
from agentgw.core.revocation import Revoked, check_parties, token_key
from agentgw.errors import InvalidToken, OAuthError
from agentgw.gateway.judgement import decide
from agentgw.http.subject_tokens import SubjectTokens
from agentgw.identity.verifier import TokenVerifier
from agentgw.policy.cel import compile_condition
from agentgw.policy.grants import GrantsPolicy
from agentgw.registry.ledger import LedgerQueue
from agentgw.registry.revocations import Revocations
from agentgw.registry.schema import open_database
from agentgw.sts.keys import KeyRing
from agentgw.sts.mint import Minter
from tests.identity.forge import FixedKeys, ec_key, jwk, sign
from tests.sts.sts_under_test import OurTokens

NOW = 1_795_400_000
US = "https://gw.example.com"
ISSUERS = {"acme": "https://idp.example.com", "partner": "https://idp.partner.example"}
SIBLINGS = 3
AGENTS: Mapping[str, Mapping[str, Any]] = {
    "planner": {"client": True, "hands": {"coder", "tester"}, "depth": 4, "from": set()},
    "coder": {"client": True, "hands": {"tester", "planner"}, "depth": 4, "from": {"portal", "planner"}},
    "tester": {"client": False, "hands": {"helper", "coder"}, "depth": 3, "from": set()},
    "helper": {"client": True, "hands": {"planner"}, "depth": 4, "from": {"portal"}},
}  # fmt: skip
"""`client`: whether the operator vouches for its client at acme; `from`: clients it may start from."""

TOOLS = {
    ("tickets", "read"): "",
    ("tickets", "close"): "tickets.write",
    ("time", "now"): "time.read",
}
RESOURCES = frozenset({("tickets", "mail:inbox")})
GRANTS: Sequence[Mapping[str, Any]] = [
    {"users": ["acme|alice", "acme|bob"], "tools": ["tickets/read", "tickets/close"]},
    {"users": ["acme:group:support"], "tools": ["time/now"]},
    {"users": ["partner|bob"], "tools": ["tickets/read", "time/now"]},
    {
        "agents": ["planner", "coder", "helper"],
        "tools": ["tickets/read", "tickets/close", "time/now"],
    },
    {"agents": ["*"], "tools": ["tickets/read"]},
    {"users": ["acme|alice", "acme|bob"], "resources": ["tickets/mail:inbox"]},
    {"agents": ["planner", "coder", "tester"], "resources": ["tickets/mail:inbox"]},
    {"users": ["acme|alice"], "agents": ["tester"], "tools": ["time/now"]},
    {"agents": ["helper"], "tools": ["tickets/close"], "deny": True},
    {"users": ["acme|bob"], "tools": ["tickets/close"], "when": "args.id > 1", "deny": True},
]
CONDITIONS = {"args.id > 1": lambda args: args["id"] > 1}


class Rules(NamedTuple):
    """What decides a call, as the gateway's judgement wants it."""

    issuer: str
    policy: GrantsPolicy


class Tools(NamedTuple):
    """A server, as the gateway's judgement wants it."""

    name: str
    scopes: Mapping[str, str]


class World:
    """One installation from its first day. Refusals come back as None or False."""

    def __init__(self, folder: Path, keyring: KeyRing) -> None:
        self.loop = asyncio.new_event_loop()
        self.now = NOW
        self.off: set[str] = set()
        self.hands = {name: set(agent["hands"]) for name, agent in AGENTS.items()}
        self._numbers = itertools.count(1)
        self._engine = open_database(folder / "state.db")
        # What is tested is the rules, so nobody need wait for the disk.
        self._engine.dispose()
        event.listen(
            self._engine, "connect", lambda made, _: made.execute("PRAGMA synchronous=OFF")
        )
        self._ledger = LedgerQueue(self._engine)
        self._revocations = Revocations(self._engine)
        self._seen = 0
        self.revoked = Revoked(US)
        self._own = OurTokens(keyring, self._ledger.ledger, US)
        self._minter = Minter(keyring, US)
        self.reload()
        self._subjects = SubjectTokens(
            lambda: self.verifier, self._ledger, lambda jti, exp: True, lambda: float(self.now)
        )

    def reload(self) -> None:
        """Take on what is configured now, as a reload does."""
        both = {f"{US}/mcp": [f"{US}/mcp"], f"{US}/mcp/tickets": [f"{US}/mcp/tickets"]}
        audiences = {value: frozenset(resources) for value, resources in both.items()}
        keys = FixedKeys([jwk(ec_key("delegation"))])
        self.verifier = TokenVerifier(
            [
                IssuerRules("acme", ISSUERS["acme"], audiences, groups_claim="groups"),
                IssuerRules("partner", ISSUERS["partner"], audiences, may_assert_act=True),
            ],
            [
                AgentRules(
                    name, agent_id(name), (ClientRule("acme", name, agent["client"]),),
                    name in self.off, agent["depth"],
                )
                for name, agent in AGENTS.items()
            ],
            self._own,
            US,
            {"acme": keys, "partner": keys},
            revoked=self.revoked.has_token,
        )  # fmt: skip
        agents = {
            name: ExchangeAgent(
                name, agent_id(name), name in self.off, agent["depth"], frozenset(self.hands[name]),
                frozenset(("acme", client) for client in agent["from"]),
            )
            for name, agent in AGENTS.items()
        }  # fmt: skip
        resources = frozenset(f"{US}/mcp{path}" for path in ("", "/tickets", "/time"))
        self.rules = ExchangeRules(
            US, resources, agents, max_siblings=SIBLINGS, let_in=frozenset(agents)
        )
        rows = [
            parse_row(f"r{number}", row, list(ISSUERS), False, compile_condition)
            for number, row in enumerate(GRANTS)
        ]
        self.policy = GrantsPolicy(rows, "p", frozenset(self.off))

    def issue(self, issuer: str, **claims: Any) -> bytes:
        """A token of an issuer; claims that are None are left out."""
        base = {"iss": ISSUERS[issuer], "iat": self.now, "jti": f"idp-{next(self._numbers)}"}
        kept = {name: value for name, value in {**base, **claims}.items() if value is not None}
        return sign(ec_key("delegation"), json.dumps(kept).encode())

    def exchange(
        self, token: bytes, client: str, target: str, scopes: frozenset[str] | None, only: OneTool | None
    ) -> tuple[bytes, Exchanged] | None:  # fmt: skip
        """What the token endpoint does for the authenticated `client`."""
        try:
            return self.loop.run_until_complete(self._exchange(token, client, target, scopes, only))
        except OAuthError:
            return None

    def let_in(
        self, user: str, groups: frozenset[str], agent: str, place: str, scopes: frozenset[str],
        until: int, consent: Consent,
    ) -> tuple[Issued, bytes, Exchanged] | None:  # fmt: skip
        """The login by which a user lets an agent in until then, and the first token that comes of it."""
        number = next(self._numbers)
        resource = f"{US}/mcp/{place}".rstrip("/")
        login = Issued(
            f"login-{number}", "login", None, Subject("acme", user, f"acme|{user}"), groups,
            (Hop(agent_id(agent), agent, "consent"),), resource, scopes, f"t-{number}", self.now,
            until, agent_id(agent), resources=frozenset({resource}), consent=consent,
        )  # fmt: skip
        self._ledger.ledger.record(login)
        asked = RefreshRequest("-", None, None)
        try:
            made = issue_by_login(
                asked, login, agent, self.rules, now=self.now, jti=f"j-{number}", txn=f"t-{number}",
                evidence="consent",
            )  # fmt: skip
        except OAuthError:
            return None
        self._ledger.ledger.record(made.issued)
        return login, self._minter.sign(made.claims), made

    async def _exchange(
        self, token: bytes, client: str, target: str, scopes: frozenset[str] | None, only: OneTool | None
    ) -> tuple[bytes, Exchanged]:  # fmt: skip
        asked = ExchangeRequest(token.decode(), target, scopes, ACCESS_TOKEN, details=only)
        subject = await self._subjects.read(asked, US)
        actors = (Hop(agent_id(client), client, "exchange"),)
        check_parties(self.revoked, subject.subject, (*actors, *subject.chain))
        number = next(self._numbers)
        made = exchange(
            asked, subject, client, self.rules, now=self.now, jti=f"j-{number}", txn=f"t-{number}"
        )
        self._ledger.ledger.record(made.issued)
        return self._minter.sign(made.claims), made

    def call(
        self, token: bytes, path: str, server: str, tool: str, args: Mapping[str, Any]
    ) -> bool:
        """What the door, the token's bounds, consent and policy say to a tools/call, or a resources/read."""
        caller = self.verifier.lookup(token, self.now)
        try:
            if caller is None:
                asking = self.verifier.authenticate(token, self.now)
                caller = self.loop.run_until_complete(asking)
        except InvalidToken:
            return False
        if not admits(caller, US, path or None) or path not in ("", server):
            return False
        if self.revoked.why(caller) is not None:
            return False
        kind: Kind = "resources" if (server, tool) in RESOURCES else "tools"
        there = Tools(server, {name: scope for (at, name), scope in TOOLS.items() if at == server})
        here = Rules(US, self.policy)
        given = args if kind == "tools" else {}
        return decide(here, caller, there, kind, tool, given, self.now).allow

    def revoke_token(self, inbound: Inbound, until: int) -> None:
        """Take back a token and all that came of it."""
        self._revocations.revoke_token(token_key(inbound, US), until)
        self._read_revocations()

    def revoke_party(self, kind: Party, key: str) -> None:
        """Lock a user or an agent out."""
        self._revocations.revoke_party(kind, key)
        self._read_revocations()

    def lift(self, kind: Party, key: str) -> None:
        """Let them in again."""
        self._revocations.lift(kind, key, self.now)
        self._read_revocations()

    def _read_revocations(self) -> None:
        changes = self._revocations.since(self._seen)
        self.revoked.apply(changes)
        self._seen = max((change.seq for change in changes), default=self._seen)

    def close(self) -> None:
        """Give everything back."""
        self.loop.run_until_complete(self._ledger.close())
        self._revocations.close()
        self._engine.dispose()
        self.loop.close()


def agent_id(name: str) -> str:
    """The id of an agent."""
    return f"{US}/a2a/{name}"


def one_tool(server: str, tool: str, args: Mapping[str, Any] | None) -> OneTool:
    """The one tool of a server, with these arguments or any."""
    return OneTool(f"{US}/mcp/{server}", tool, None if args is None else arguments_digest(args))
