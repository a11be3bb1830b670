"""Client assertions already used: each `jti` of a client opens the door once (RFC 7523 section 3)."""

from __future__ import annotations

from sqlalchemy import Engine, delete, insert
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from agentgw.errors import Unavailable
from agentgw.registry.schema import used_assertions


class UsedAssertions:
    """A replay store that all workers share. Calls block on the disk.

    All raise Unavailable when the database cannot be written: an assertion we cannot remember is
    one we cannot accept.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def once(self, client: str, jti: str, exp: int) -> bool:
        """True the first time, False ever after; remembered on disk before True is returned."""
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(used_assertions).values(client=client, jti=jti, exp=exp))
        except IntegrityError:
            return False
        except SQLAlchemyError as error:
            raise _unavailable() from error
        return True

    def purge(self, now: int) -> int:
        """Drop what expired before `now` (Unix seconds); returns how many rows."""
        try:
            with self._engine.begin() as connection:
                expired = delete(used_assertions).where(used_assertions.c.exp < now)
                return connection.execute(expired).rowcount
        except SQLAlchemyError as error:
            raise _unavailable() from error


def _unavailable() -> Unavailable:
    return Unavailable("used client assertions cannot be written: look at the state database")
