"""Refresh tokens, of which each works once: only their hashes are kept, and what came after them."""

from __future__ import annotations

from sqlalchemy import Engine, delete, insert, select, update

from agentgw.core.login_grants import RefreshToken
from agentgw.registry.one_time import key_of
from agentgw.registry.schema import refresh_tokens, told


class RefreshTokens:
    """Refresh tokens over the state database. Calls block on the disk; what returned is durable.

    Those used up are kept until they would have ended, so that their being used twice is seen. All raise
    Unavailable when the database cannot be read or written.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def put(self, secret: str, token: RefreshToken) -> None:
        """Keep the first refresh token of a login. One already there is Unavailable."""
        with told("refresh_tokens"), self._engine.begin() as connection:
            connection.execute(insert(refresh_tokens).values(_row(secret, token)))

    def look(self, secret: str) -> RefreshToken | None:
        """What `secret` stands for, used or not; None where it never was, or ended long ago."""
        query = select(refresh_tokens).where(refresh_tokens.c.key == key_of(secret))
        with told("refresh_tokens"), self._engine.connect() as connection:
            row = connection.execute(query).first()
        if row is None:
            return None
        return RefreshToken(row.login, row.client_id, row.exp, row.used_by is not None, row.jkt)

    def rotate(self, secret: str, new_secret: str, token: RefreshToken) -> bool:
        """Use `secret` up and keep `token` under `new_secret` in its place, at once or not at all.

        False where somebody else has used it up: of all who rotate one token, one gets True.
        """
        free = update(refresh_tokens).where(
            refresh_tokens.c.key == key_of(secret), refresh_tokens.c.used_by.is_(None)
        )
        with told("refresh_tokens"), self._engine.begin() as connection:
            if connection.execute(free.values(used_by=key_of(new_secret))).rowcount != 1:
                return False
            connection.execute(insert(refresh_tokens).values(_row(new_secret, token)))
        return True

    def purge(self, now: int) -> int:
        """Drop what ended before `now` (Unix seconds); returns how many rows."""
        with told("refresh_tokens"), self._engine.begin() as connection:
            gone = delete(refresh_tokens).where(refresh_tokens.c.exp < now)
            return connection.execute(gone).rowcount


def _row(secret: str, token: RefreshToken) -> dict[str, object]:
    return {
        "key": key_of(secret),
        "login": token.login,
        "client_id": token.client_id,
        "jkt": token.jkt,
        "exp": token.exp,
        "used_by": None,
    }
