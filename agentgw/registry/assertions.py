"""Client assertions already used: each `jti` of a client opens the door once (RFC 7523 section 3)."""

from __future__ import annotations

from sqlalchemy import Engine, delete, insert
from sqlalchemy.exc import IntegrityError

from agentgw.registry.schema import told, used_assertions


class UsedAssertions:
    """A replay store that all workers share. Calls block on the disk.

    All raise Unavailable when the database cannot be written: an assertion we cannot remember is
    one we cannot accept.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def once(self, client: str, jti: str, exp: int) -> bool:
        """True the first time, False ever after; remembered on disk before True is returned."""
        row = insert(used_assertions).values(client=client, jti=jti, exp=exp)
        with told("used_assertions"):
            try:
                with self._engine.begin() as connection:
                    connection.execute(row)
            except IntegrityError:
                return False
        return True

    def purge(self, now: int) -> int:
        """Drop what expired before `now` (Unix seconds); returns how many rows."""
        expired = delete(used_assertions).where(used_assertions.c.exp < now)
        with told("used_assertions"), self._engine.begin() as connection:
            return connection.execute(expired).rowcount
