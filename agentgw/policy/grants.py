"""The grants table as a Policy: rows picked by server, unconditional answers remembered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from agentgw.core.grants import (
    KINDS,
    AccessRequest,
    Decision,
    Kind,
    Row,
    concerning,
    judge,
    refuse_unknown,
)
from agentgw.core.principal import Caller

CACHE_SIZE = 4096
LONGEST_REMEMBERED_NAME = 256


class GrantsPolicy:
    """Answers from one immutable table; a reload makes a new object, so nothing stale survives it.

    `disabled` are agent names that count as unregistered. Answers are remembered only where no row that
    bears on the question has a condition and the name is short (callers choose names), in a map of at
    most `cache_size` entries, the least recently used going first. Threads may share it.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        version: str,
        disabled: frozenset[str] = frozenset(),
        cache_size: int = CACHE_SIZE,
    ) -> None:
        self._version = version
        self._disabled = disabled
        self._by_server, self._elsewhere = _index(rows)
        self._answers: OrderedDict[tuple[object, ...], Decision] = OrderedDict()
        self._reached: dict[tuple[object, ...], bool] = {}
        self._cache_size = cache_size

    @property
    def version(self) -> str:
        """The name of this table, as records keep it."""
        return self._version

    def decide(self, request: AccessRequest) -> Decision:
        """Judge one request: agents, deny rows, grants, scope (see `core.grants.judge`)."""
        caller = request.caller
        key = (caller, request.name, request.server, request.kind, request.scopes)
        answer = self._answers.get(key)
        if answer is not None:
            try:
                self._answers.move_to_end(key)
            except KeyError:
                pass  # another thread has dropped it meanwhile
            return answer
        refused = refuse_unknown(caller.chain, self._disabled)
        if refused is not None:
            return refused
        rows = concerning(self._rows(request.server, request.kind), request)
        answer = judge(rows, request)
        if len(request.name) <= LONGEST_REMEMBERED_NAME and all(row.when is None for row in rows):
            self._answers[key] = answer
            if len(self._answers) > self._cache_size:
                self._answers.popitem(last=False)
        return answer

    def reaches(self, caller: Caller, server: str) -> bool:
        """Whether any allowing row names this user or one of the agents for anything of `server`.

        A server for which nothing does looks to the caller as if it did not exist.
        """
        key = (caller, server)
        answer = self._reached.get(key)
        if answer is None:
            if len(self._reached) >= self._cache_size:
                self._reached.clear()
            answer = self._reached[key] = self._find_reach(caller, server)
        return answer

    def _find_reach(self, caller: Caller, server: str) -> bool:
        agents = {hop.agent for hop in caller.chain}
        return any(
            not row.deny
            and (row.users is None or row.users.include(caller.subject, caller.groups))
            and (row.agents is None or "*" in row.agents or not row.agents.isdisjoint(agents))
            for kind in KINDS
            for row in self._rows(server, kind)
        )

    def offers(self, caller: Caller, server: str) -> bool:
        """Whether rows give this user *and* its agent anything of `server`, whatever that is.

        `reaches` asks whether the server is there for a caller; this, whether to speak of it to the user.
        """
        agents = {hop.agent for hop in caller.chain}
        rows = [row for kind in KINDS for row in self._rows(server, kind) if not row.deny]
        by_user = [
            row
            for row in rows
            if row.users is not None and row.users.include(caller.subject, caller.groups)
        ]
        by_agent = [
            row
            for row in rows
            if row.agents is not None and ("*" in row.agents or not row.agents.isdisjoint(agents))
        ]
        both = [row for row in by_user if row in by_agent]
        alone = any(row.agents is None for row in by_user)
        return bool(both) or (alone and any(row.users is None for row in by_agent))

    def _rows(self, server: str, kind: Kind) -> Sequence[Row]:
        return self._by_server.get((server, kind)) or self._elsewhere[kind]


def _index(
    rows: Sequence[Row],
) -> tuple[dict[tuple[str, Kind], tuple[Row, ...]], dict[Kind, tuple[Row, ...]]]:
    """The rows that may speak of each server named outright, and of any other server, in order."""
    by_server: dict[tuple[str, Kind], tuple[Row, ...]] = {}
    elsewhere: dict[Kind, tuple[Row, ...]] = {}
    for kind in KINDS:
        servers = {
            pattern.server[0]
            for row in rows
            for pattern in row.patterns.get(kind, ())
            if len(pattern.server) == 1
        }
        for server in servers:
            by_server[server, kind] = tuple(row for row in rows if row.speaks_of(server, kind))
        elsewhere[kind] = tuple(
            row
            for row in rows
            if any(len(pattern.server) > 1 for pattern in row.patterns.get(kind, ()))
        )
    return by_server, elsewhere
