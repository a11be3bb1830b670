"""The values that token exchange is judged on: what is configured, what was presented, what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from agentgw.core.authorization_details import OneTool
from agentgw.core.delegation import DEFAULT_MAX_DEPTH, Steps
from agentgw.core.possession import Binding
from agentgw.core.principal import Hop, Inbound, Issued, Subject

MAX_SIBLINGS = 100
"""How often one hand-over may be exchanged where the configuration says nothing."""

Case = Literal["continue", "first-hop", "hand-over", "call"]


@dataclass(frozen=True, slots=True)
class ExchangeAgent:
    """What the configuration says about one agent; `id` is `{public_url}/a2a/{name}`.

    `subject_from` holds (issuer alias, client_id) pairs whose tokens this agent may start from.
    `own_scopes` are those it may have with no user behind it, None where it acts for users only. `require`
    is the proof of possession (`dpop` or `mtls`) without which it gets nothing.
    """

    name: str
    id: str
    disabled: bool = False
    max_depth: int = DEFAULT_MAX_DEPTH
    may_hand_to: frozenset[str] = frozenset()
    subject_from: frozenset[tuple[str, str]] = frozenset()
    own_scopes: frozenset[str] | None = None
    require: str | None = None


@dataclass(frozen=True, slots=True)
class ExchangeRules:
    """The configuration values that decide. `resources` are our own resource URLs (`/mcp` and each
    `/mcp/{server}`), `agents` is by name, `max_life` in seconds, `max_siblings` how often one
    hand-over may be exchanged, `receipts` whether tokens get actor receipts. `behind` tells the agent
    behind a tool server by the server's audience. `assertions_of` are the aliases of issuers whose identity
    assertions are taken as grants, `let_in` names the agents that users can sign in for."""

    issuer: str
    resources: frozenset[str]
    agents: Mapping[str, ExchangeAgent]
    max_life: int = 3600
    max_siblings: int = MAX_SIBLINGS
    receipts: bool = False
    behind: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    assertions_of: frozenset[str] = frozenset()
    let_in: frozenset[str] = frozenset()

    @property
    def steps(self) -> Steps:
        """Which agent may come after which."""
        hands = {name: agent.may_hand_to for name, agent in self.agents.items()}
        return Steps(hands, frozenset(self.behind.values()))

    def most_siblings(self, entry: Issued | None) -> int | None:
        """How many tokens may come of one of ours by exchange; None for any number."""
        if entry is None or entry.kind == "gateway":
            return None
        return self.max_siblings if entry.kind == "hand-over" else 1

    def agent_with_id(self, agent_id: str) -> ExchangeAgent | None:
        """The agent of that id, or None."""
        return next((agent for agent in self.agents.values() if agent.id == agent_id), None)


@dataclass(frozen=True, slots=True)
class SubjectToken:
    """A verified subject_token, whoever issued it; times are Unix seconds.

    `resources` are those of our own resource URLs it is for (none for a hand-over), `client` is the
    (issuer alias, client_id) it was issued to, `has_act` says whether it carried an `act`, `ours`
    whether we signed it, `entry` is then the ledger's memory of it (None: not issued to be exchanged)
    and `siblings` how often it was exchanged before. `dropped_act` tells that it carried an `act`
    which its issuer may not assert, `binding` the key its presenter must hold, `details` the one tool
    it is for, if it is for one only, `receipts` the actor receipts a token of ours carries.
    """

    subject: Subject
    chain: tuple[Hop, ...]
    scopes: frozenset[str]
    resources: frozenset[str]
    exp: int
    inbound: Inbound
    client: tuple[str, str] | None
    has_act: bool
    groups: frozenset[str] = frozenset()
    txn: str | None = None
    may_act: str | None = None
    acr: str | None = None
    auth_time: int | None = None
    ours: bool = False
    entry: Issued | None = None
    siblings: int = 0
    dropped_act: bool = False
    binding: Binding | None = None
    details: OneTool | None = None
    receipts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ActorToken:
    """A verified actor_token: the agent whose key signed it, and when it ends (Unix seconds).

    `delegated` says that it carried `act` or `may_act`: then it is no plain proof of who acts.
    """

    agent: str
    exp: int
    delegated: bool = False


@dataclass(frozen=True, slots=True)
class Exchanged:
    """The outcome: what the ledger keeps, the claims to sign and the members of the answer but the
    token itself. `receipt` is the claims of an actor receipt, where one is to be signed first. `siblings`
    is how many tokens may have come of the same subject_token, this one among them; None for any number."""

    issued: Issued
    claims: dict[str, Any]
    answer: dict[str, Any]
    receipt: dict[str, Any] | None = None
    siblings: int | None = None
