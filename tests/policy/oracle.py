"""The grants table once more, naive and slow: ADR 7 and docs/architecture.md read sentence by sentence.

It works on the configured entries themselves, so it shares neither parsing nor matching with ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentgw.core.principal import Hop
from agentgw.policy import AccessRequest

Outcome = bool | None
"""What a condition of the test says: true, false, or None for an error."""

STRENGTH = {
    "client-claim": 1, "idp-facet": 2, "act-claim": 3, "consent": 4, "client-auth": 5,
    "exchange": 6, "receipt": 7, "dpop": 8, "mtls": 9,
}  # fmt: skip


@dataclass(frozen=True)
class FixedCondition:
    """A condition whose outcome the test chose, whatever the request."""

    outcome: Outcome
    over_arguments: bool

    def holds(self, request: AccessRequest) -> bool:
        """Answer as chosen; raise where the choice was an error, or where no argument can be read."""
        if self.outcome is None or (self.over_arguments and request.arguments is None):
            raise RuntimeError("no outcome")
        return self.outcome


@dataclass(frozen=True)
class Oracle:
    """The table: configured entries, the issuers' aliases, what each condition says, who is disabled."""

    entries: Sequence[Mapping[str, Any]]
    aliases: Sequence[str]
    conditions: Mapping[str, FixedCondition]
    disabled: frozenset[str]

    def judge(self, request: AccessRequest) -> tuple[bool, str | None]:
        """Whether `request` is allowed, and the reason where it is not."""
        chain = request.caller.chain
        known = [hop for hop in chain if hop.agent is not None and hop.agent not in self.disabled]
        if len(chain) == 0 or len(known) != len(chain):
            return False, "unknown_agent"
        firing = [entry for entry in self.entries if self.fires(entry, request)]
        for entry in firing:
            if entry["deny"] and any(names_agent(entry, hop) for hop in chain):
                return False, "not_available"
        allows = [entry for entry in firing if not entry["deny"]]
        if not all(may_pass(hop, allows) for hop in chain):
            return False, "not_available"
        if any(scope not in request.caller.scopes for scope in request.scopes):
            return False, "insufficient_scope"
        return True, None

    def fires(self, entry: Mapping[str, Any], request: AccessRequest) -> bool:
        """Whether the entry speaks of this target and user, and its condition counts as true."""
        if not target_matches(entry, request):
            return False
        if "users" in entry and not user_matches(entry["users"], self.aliases, request):
            return False
        if "when" not in entry:
            return True
        condition = self.conditions[entry["when"]]
        if condition.over_arguments and request.arguments is None:
            return not entry["deny"]
        if condition.outcome is None:
            return bool(entry["deny"])
        return condition.outcome


def names_agent(entry: Mapping[str, Any], hop: Hop) -> bool:
    """Whether the entry names this agent, or no agent at all."""
    return "agents" not in entry or hop.agent in entry["agents"] or "*" in entry["agents"]


def may_pass(hop: Hop, allows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether one entry of user and agent, or one of each, lets this hop pass."""
    mine = [
        entry
        for entry in allows
        if names_agent(entry, hop)
        and STRENGTH[hop.evidence] >= STRENGTH[entry.get("min_evidence", "client-claim")]
    ]
    of_user = any("users" in entry and "agents" not in entry for entry in mine)
    of_agent = any("users" not in entry and "agents" in entry for entry in mine)
    of_both = any("users" in entry and "agents" in entry for entry in mine)
    return of_both or (of_user and of_agent)


def target_matches(entry: Mapping[str, Any], request: AccessRequest) -> bool:
    """Whether a pattern of the request's kind matches, by regular expressions."""
    for pattern in entry.get(request.kind, []):
        slash = pattern.index("/")
        if glob(pattern[:slash], request.server) and glob(pattern[slash + 1 :], request.name):
            return True
    return False


def glob(pattern: str, text: str) -> bool:
    """Only `*` is special, and it is any run of any characters."""
    expression = "".join(".*" if char == "*" else re.escape(char) for char in pattern)
    return re.fullmatch(expression, text, re.DOTALL) is not None


def user_matches(users: Sequence[str], aliases: Sequence[str], request: AccessRequest) -> bool:
    """Whether an entry names the caller's subject or one of its groups."""
    subject = request.caller.subject
    for entry in users:
        if entry == "*":
            return True
        qualified = any(entry.startswith(f"{alias}|") for alias in aliases)
        is_group = any(entry.startswith(f"{alias}:group:") for alias in aliases)
        if qualified and entry == f"{subject.iss}|{subject.sub}":
            return True
        if is_group and not qualified and entry in request.caller.groups:
            return True
        if not qualified and not is_group and subject.name == subject.sub == entry:
            return True
    return False
