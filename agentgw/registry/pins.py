"""The approved tool definitions of servers."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Engine, delete, select
from sqlalchemy.dialects.sqlite import insert

from agentgw.registry.schema import pins, told


class ToolPins:
    """Digests by server and tool, over the state database; several workers may approve at a time.

    All raise Unavailable when the database cannot be read or written.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def of(self, server: str) -> dict[str, str]:
        """Approved digests by tool name; empty where nothing was ever approved."""
        query = select(pins.c.tool, pins.c.digest).where(pins.c.server == server)
        with told("pins"), self._engine.connect() as connection:
            return {row.tool: row.digest for row in connection.execute(query)}

    def approve(self, server: str, digests: Mapping[str, str]) -> None:
        """Keep these digests as approved where the tool has none yet. Durable when it returns."""
        rows = [{"server": server, "tool": tool, "digest": digests[tool]} for tool in digests]
        if rows:
            with told("pins"), self._engine.begin() as connection:
                connection.execute(insert(pins).on_conflict_do_nothing(), rows)

    def forget(self, server: str) -> int:
        """Drop the approvals of a server, so that its next listing becomes the approved one."""
        with told("pins"), self._engine.begin() as connection:
            return connection.execute(delete(pins).where(pins.c.server == server)).rowcount
