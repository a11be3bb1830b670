"""What every token may do, once more: naive, slow, and written from the contract's words alone.

It shares no code with the gateway. A token is a `Power`; every question is answered from the table and
the powers, anew each time. A `place` is "" for `/mcp` or the name of a server for `/mcp/{server}`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Only = tuple[str, str, str | None]
"""The one tool a token is for: server, tool, its arguments as text (None: any)."""


@dataclass(frozen=True)
class Allowed:
    """What a user ticked at the consent page: tools, whole servers for all that is no tool, agents."""

    tools: frozenset[tuple[str, str]]
    servers: frozenset[str]
    agents: frozenset[str]


@dataclass(frozen=True)
class Power:
    """One token. `chain` has the agent that acts in front; strangers are called `?…`. `steps` are the
    hand-overs made here, (giver, taker). `lineage` is all tokens it came of, and itself."""

    user: str
    groups: tuple[str, ...]
    chain: tuple[str, ...]
    scopes: frozenset[str]
    place: str
    end: int
    lineage: tuple[int, ...]
    heir: str | None = None
    first: bool = False
    client: str | None = None
    unproven: bool = False
    lied: bool = False
    acted: bool = False
    may_act: str | None = None
    only: Only | None = None
    steps: tuple[tuple[str, str], ...] = ()
    consent: Allowed | None = None


@dataclass
class Oracle:
    """The table and what has happened: agents off, tokens, users and agents revoked, hand-overs taken."""

    agents: Mapping[str, Mapping[str, Any]]
    grants: Sequence[Mapping[str, Any]]
    conditions: Mapping[str, Callable[[Any], bool]]
    scopes: Mapping[tuple[str, str], str]
    siblings: int
    resources: frozenset[tuple[str, str]] = frozenset()
    off: set[str] = field(default_factory=set)
    hands: dict[str, set[str]] = field(default_factory=dict)
    revoked: set[int] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    taken: Counter[int] = field(default_factory=Counter)

    def stands(self, power: Power, now: int) -> bool:
        """Alive, and nothing it rests on was taken back."""
        taken_back = self.revoked & {*power.lineage} or self.gone & {power.user, *power.chain}
        return power.end - now >= 5 and not taken_back

    def knows(self, chain: Sequence[str]) -> bool:
        return bool(chain) and all(name in self.agents and name not in self.off for name in chain)

    def let_in(
        self, user: str, groups: tuple[str, ...], agent: str, place: str, scopes: frozenset[str],
        until: int, consent: Allowed, now: int, lineage: tuple[int, int],
    ) -> Power | None:  # fmt: skip
        """The power of an agent that the user lets in until then, None where it gets nothing."""
        if not self.knows([agent]) or until - now < 5:
            return None
        return Power(
            user, groups, (agent,), scopes, place, min(until, now + 3600), lineage, consent=consent
        )

    def exchange(
        self, power: Power, client: str, target: str, scopes: frozenset[str] | None,
        only: Only | None, now: int, number: int,
    ) -> Power | None:  # fmt: skip
        """The power of the new token, None where it is refused. `target` is an agent or `/mcp…`."""
        if not self.stands(power, now) or power.lied or not self.knows([client]):
            return None
        if client in self.gone or power.may_act not in (None, client):
            return None
        chain, steps = self.grown(power, client)
        if not self.knows(chain) or any(taker not in self.hands[giver] for giver, taker in steps):
            return None
        asked = power.consent
        if asked is not None and power.heir is not None and client not in asked.agents:
            return None
        heir = target if target in self.agents else None
        if asked is not None and heir is not None and heir not in asked.agents:
            return None
        if heir is not None and (heir not in self.hands[client] or heir in self.off):
            return None
        place = power.place if heir else target.removeprefix("/mcp").removeprefix("/")
        if power.place not in ("", place):
            return None
        every = chain if heir is None else (heir, *chain)
        limit = min(self.agents[name]["depth"] for name in every)
        if len(set(every)) < len(every) or len(every) > limit:
            return None
        if not power.scopes >= (scopes or power.scopes):
            return None
        one = only or power.only
        if one is not None and not (fits(one, power.only) and place in ("", one[0])):
            return None
        if power.heir is not None:
            self.taken[power.lineage[-1]] += 1
        return Power(
            power.user, power.groups, chain, power.scopes if scopes is None else scopes, place,
            min(power.end, now + (3600 if heir is None else 300)), (*power.lineage, number),
            heir=heir, only=one, steps=steps, consent=asked,
        )  # fmt: skip

    def grown(self, power: Power, client: str) -> tuple[tuple[str, ...], Any]:
        """The new chain and its steps; an empty chain where this client has no business with it."""
        if power.heir is not None:
            if power.heir != client or self.taken[power.lineage[-1]] >= self.siblings:
                return (), ()
            return (client, *power.chain), ((power.chain[0], client), *power.steps)
        if power.chain[0] == client:
            return power.chain, power.steps
        starts = power.first and not power.acted and power.client in self.agents[client]["from"]
        return ((client,), ()) if starts and power.chain[0].startswith("?") else ((), ())

    def call(self, power: Power, path: str, server: str, tool: str, args: Any, now: int) -> bool:
        """Whether a call at this path is let through to the tool."""
        if power.heir is not None or power.unproven or not self.stands(power, now):
            return False
        if power.may_act not in (None, power.chain[0]) or not self.knows(power.chain):
            return False
        return self.within(power, path, server, tool, args)

    def within(self, power: Power, path: str, server: str, tool: str, args: Any) -> bool:
        """Whether the call lies within the power, whoever holds it: reach, tool, grants, scope."""
        if power.place not in ("", path) or path not in ("", server):
            return False
        is_tool = (server, tool) not in self.resources
        if power.only is not None and not (is_tool and fits((server, tool, str(args)), power.only)):
            return False
        asked = power.consent
        if asked is not None and not (
            (server, tool) in asked.tools if is_tool else server in asked.servers
        ):
            return False
        rows = [row for row in self.grants if self.speaks(row, power, f"{server}/{tool}", args)]
        agents = [name for name in power.chain if not name.startswith("?")]
        if any("deny" in r and {*r.get("agents", agents)} & {*agents} for r in rows):
            return False
        allows = [row for row in rows if "deny" not in row]
        return all(passes(name, allows) for name in agents) and (
            {self.scopes.get((server, tool), "")} <= {*power.scopes, ""}
        )

    def speaks(self, row: Mapping[str, Any], power: Power, name: str, args: Any) -> bool:
        user = "users" not in row or bool({power.user, *power.groups} & {*row["users"]})
        return (
            user
            and name in (*row.get("tools", ()), *row.get("resources", ()))
            and ("when" not in row or self.conditions[row["when"]](args))
        )


def fits(inner: Only, outer: Only | None) -> bool:
    return outer is None or (inner[:2] == outer[:2] and outer[2] in (None, inner[2]))


def passes(name: str, allows: Sequence[Mapping[str, Any]]) -> bool:
    """One row for user and agent together, or one of each."""
    mine = [row for row in allows if {name, "*"} & {*row.get("agents", [name])}]
    kinds = {("users" in row, "agents" in row) for row in mine}
    return (True, True) in kinds or {(True, False), (False, True)} <= kinds
