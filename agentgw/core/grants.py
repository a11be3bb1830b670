"""The grants table: who may do what. Deny by default, and one function for lists and for calls.

Everything compares code point by code point: nothing is folded, normalised or trimmed, and nothing
that comes from a caller is ever read as a pattern. How rows are written: `core.grant_syntax`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, get_args

from agentgw.core.principal import EVIDENCE, Caller, Hop, Subject

Kind = Literal["tools", "resources", "prompts", "methods"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class AccessRequest(NamedTuple):
    """One question: may `caller` do this? `arguments` is None on lists, and there only.

    `name` is the original name at the server (tool, prompt, resource URI) or, for kind `methods`, the
    JSON-RPC method. `scopes` are what the target demands of the caller's token. `now` is Unix seconds.
    A call without arguments carries an empty mapping: None would make its conditions count as true.
    """

    caller: Caller
    server: str
    kind: Kind
    name: str
    arguments: Mapping[str, Any] | None
    scopes: frozenset[str]
    now: float


class Decision(NamedTuple):
    """The answer. `reason` is None on allow, else `unknown_agent`, `not_available` or
    `insufficient_scope`; `rule` names what decided (`-` where no row matched); `missing_scopes` is
    filled only where policy would allow with them. `account` is whose connected account an agent that
    acts for no user may use for this, where the rows that let it say one."""

    allow: bool
    reason: str | None
    rule: str
    missing_scopes: tuple[str, ...] = ()
    account: Subject | None = None


class Condition(Protocol):
    """A compiled `when`. `over_arguments` says whether it reads the call's arguments at all."""

    @property
    def over_arguments(self) -> bool:
        """True where the outcome may depend on the arguments, so a list cannot know it."""
        ...

    def holds(self, request: AccessRequest) -> bool:
        """Whether the condition holds for `request`; any exception means that it could not be told."""
        ...


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pair of globs, each kept as its text split at `*`; no other character is special."""

    server: tuple[str, ...]
    name: tuple[str, ...]

    def matches(self, server: str, name: str) -> bool:
        """Whether both halves match; a `*` of one half never reaches into the other."""
        return _fits(self.server, server) and _fits(self.name, name)


@dataclass(frozen=True, slots=True)
class Users:
    """The users a row names, by exact value: `pairs` of (issuer alias, sub), bare subs of the `plain`
    issuer, `groups` as `alias:group:NAME`; `anyone` stands for a lone `*`. `agents` are those that act
    for themselves, by configured name: no `*` names them, unless `any_agent` says so."""

    pairs: frozenset[tuple[str, str]] = frozenset()
    plain: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    anyone: bool = False
    agents: frozenset[str] = frozenset()
    any_agent: bool = False

    def include(self, subject: Subject, groups: frozenset[str]) -> bool:
        """Whether the row speaks of this user, who is a member of these issuer-qualified groups."""
        if subject.agent is not None:
            return self.any_agent or subject.agent in self.agents
        # Never both: who may choose his own user name could choose another's sub.
        known_as = subject.sub if subject.known_as is None else subject.known_as
        return (
            self.anyone
            or (subject.iss, known_as) in self.pairs
            # Only a plain issuer names its users by their bare sub; such a sub may look like
            # `alias|sub` or `alias:group:NAME` and still is neither.
            or (subject.name == subject.sub and known_as in self.plain)
            or not self.groups.isdisjoint(groups)
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `users` or `agents` is None where the row does not name any.

    An allow row without `agents` is a right of the user and one without `users` a right of the agent;
    one of each is then needed. `agents` holds configured names; `*` among them is any registered agent.
    `account_of` is the user whose connected account the row's agents may use, acting for themselves.
    """

    id: str
    users: Users | None
    agents: frozenset[str] | None
    patterns: Mapping[Kind, tuple[Pattern, ...]]
    when: Condition | None = None
    deny: bool = False
    min_evidence: str | None = None
    account_of: Subject | None = None

    def names(self, server: str, kind: Kind, name: str) -> bool:
        """Whether one of the row's patterns of this kind matches."""
        return any(pattern.matches(server, name) for pattern in self.patterns.get(kind, ()))

    def speaks_of(self, server: str, kind: Kind) -> bool:
        """Whether one of the row's patterns of this kind could match something of this server."""
        return any(_fits(pattern.server, server) for pattern in self.patterns.get(kind, ()))

    def covers(self, hop: Hop) -> bool:
        """Whether the row, where it names agents, names this one, and its evidence is strong enough."""
        named = self.agents is None or hop.agent in self.agents or "*" in self.agents
        return named and (
            self.min_evidence is None or _strength(hop.evidence) >= _strength(self.min_evidence)
        )


def refuse_unknown(chain: Sequence[Hop], disabled: frozenset[str]) -> Decision | None:
    """The refusal of a chain that is empty or holds an unregistered or disabled agent, else None."""
    if chain and all(hop.agent is not None and hop.agent not in disabled for hop in chain):
        return None
    return Decision(False, "unknown_agent", "-")


def concerning(table: Iterable[Row], request: AccessRequest) -> tuple[Row, ...]:
    """The rows that could bear on `request`, conditions and evidence aside, in the table's order."""
    caller = request.caller
    agents = {hop.agent for hop in caller.chain}
    return tuple(
        row
        for row in table
        if row.names(request.server, request.kind, request.name)
        and (row.users is None or row.users.include(caller.subject, caller.groups))
        and (row.agents is None or "*" in row.agents or not row.agents.isdisjoint(agents))
    )


def judge(rows: Sequence[Row], request: AccessRequest) -> Decision:
    """Judge by rows that `concerning` chose, for a chain that `refuse_unknown` let pass.

    A deny row needs only one of the chain's agents; an allow needs its rows for every one of them.
    A condition that fails to evaluate makes an allow false and a deny true. On lists (`arguments` is
    None) a condition over arguments is not evaluated: an allow counts it as true and a deny as false,
    so a list never hides what some call may be allowed; other conditions are judged as on a call.
    """
    for row in rows:
        if row.deny and _holds(row, request):
            return Decision(False, "not_available", row.id)
    granting = [row for row in rows if not row.deny and _holds(row, request)]
    deciding: set[str] = set()
    for hop in request.caller.chain:
        needed = _rows_for(hop, granting)
        if not needed:
            return Decision(False, "not_available", "-")
        deciding.update(row.id for row in needed)
    rule = "+".join(row.id for row in granting if row.id in deciding)
    missing = request.scopes - request.caller.scopes
    if missing:
        return Decision(False, "insufficient_scope", rule, tuple(sorted(missing)))
    return Decision(True, None, rule, (), _account(granting, deciding, request.caller))


def _account(granting: Sequence[Row], deciding: set[str], caller: Caller) -> Subject | None:
    """The one user whose account the deciding rows name; a caller with a user of its own has no other's."""
    if caller.subject.agent is None:
        return None
    named = {row.account_of for row in granting if row.id in deciding and row.account_of}
    return named.pop() if len(named) == 1 else None


def _rows_for(hop: Hop, granting: Sequence[Row]) -> tuple[Row, ...]:
    """What lets this hop pass: one row of user and agent, or one of each; empty where nothing does."""
    of_user: Row | None = None
    of_agent: Row | None = None
    for row in granting:
        if not row.covers(hop):
            continue
        if row.users is not None and row.agents is not None:
            return (row,)
        if row.users is not None:
            of_user = of_user or row
        elif row.agents is not None:
            of_agent = of_agent or row
    return (of_user, of_agent) if of_user and of_agent else ()


def _holds(row: Row, request: AccessRequest) -> bool:
    if row.when is None:
        return True
    if request.arguments is None and row.when.over_arguments:
        return not row.deny
    try:
        return row.when.holds(request)
    except Exception:
        return row.deny


def _strength(evidence: str) -> int:
    return EVIDENCE.index(evidence) if evidence in EVIDENCE else -1


def _fits(parts: tuple[str, ...], text: str) -> bool:
    """Linear glob match: the pieces between stars must appear in order, the outer two at the ends."""
    first, last = parts[0], parts[-1]
    if len(parts) == 1:
        return text == first
    at, end = len(first), len(text) - len(last)
    if at > end or not text.startswith(first) or not text.endswith(last):
        return False
    for part in parts[1:-1]:
        at = text.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return True
