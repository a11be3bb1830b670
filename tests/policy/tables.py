"""Tables of grants written as in the configuration, and the rules of `core.grants` on a whole table."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from agentgw.core.grant_syntax import parse_row
from agentgw.core.grants import (
    AccessRequest,
    Decision,
    Row,
    concerning,
    judge,
    refuse_unknown,
)
from agentgw.policy.cel import compile_condition


def decide(
    table: Iterable[Row], request: AccessRequest, disabled: frozenset[str] = frozenset()
) -> Decision:
    """Judge `request` by the whole table: agents first, then deny rows, then grants, then scope."""
    return refuse_unknown(request.caller.chain, disabled) or judge(
        concerning(table, request), request
    )


def rows_from(
    grants: Iterable[Mapping[str, Any]], aliases: Collection[str], plain: bool = False
) -> tuple[Row, ...]:
    """The rows of a configured `grants` list, named g1, g2 … in order. Raises ValueError."""
    return tuple(
        parse_row(f"g{number}", entry, aliases, plain, compile_condition)
        for number, entry in enumerate(grants, start=1)
    )
