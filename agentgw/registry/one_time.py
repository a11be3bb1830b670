"""Secrets that work once, for all workers: only their hashes are kept, and what they stand for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Engine, Row, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from agentgw.core.canonical import b64url
from agentgw.core.one_time import Kept
from agentgw.registry.schema import one_time, told


class OneTime:
    """Secrets by kind, over the state database. Calls block on the disk; what returned is durable.

    A secret is text of at least 128 random bits, good for its own `kind` only, until `exp`; times are
    Unix seconds. All raise Unavailable when the database cannot be read or written.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def put(self, kind: str, secret: str, payload: Mapping[str, Any], exp: int) -> None:
        """Keep `payload` (plain JSON) for whoever brings `secret`. One already there is Unavailable."""
        row = {"kind": kind, "key": key_of(secret), "payload": _to_json(payload), "exp": exp}
        with told("one_time"), self._engine.begin() as connection:
            connection.execute(insert(one_time).values(row))

    def look(self, kind: str, secret: str, now: float) -> Kept | None:
        """What was kept for `secret`, used or not; None where it never was or has ended."""
        query = select(one_time).where(*_this(kind, secret), one_time.c.exp > now)
        with told("one_time"), self._engine.connect() as connection:
            row = connection.execute(query).first()
        return None if row is None else _read(row, row.used)

    def take(self, kind: str, secret: str, now: float) -> Kept | None:
        """Use `secret` up. Of all who take it one gets `used` None; those after it are told since when.

        None where it never was or has ended: a used one is told apart from that until its `exp`.
        """
        this = (*_this(kind, secret), one_time.c.exp > now)
        free = update(one_time).where(*this, one_time.c.used.is_(None))
        with told("one_time"), self._engine.begin() as connection:
            # The write comes first: it locks the database, so nobody comes in between.
            first = connection.execute(free.values(used=int(now))).rowcount == 1
            row = connection.execute(select(one_time).where(*this)).first()
        return None if row is None else _read(row, None if first else row.used)

    def replace(
        self, kind: str, secret: str, old: Mapping[str, Any], new: Mapping[str, Any], now: float
    ) -> bool:
        """Keep `new` instead of `old` for a secret not yet used; False where that is not how it stands."""
        this = (
            *_this(kind, secret),
            one_time.c.used.is_(None),
            one_time.c.exp > now,
            one_time.c.payload == _to_json(old),
        )
        change = update(one_time).where(*this).values(payload=_to_json(new))
        with told("one_time"), self._engine.begin() as connection:
            return connection.execute(change).rowcount == 1

    def once(self, kind: str, secret: str, exp: int, now: float) -> bool:
        """True the first time `secret` is seen, False ever after: for secrets that hold their own payload."""
        row = {
            "kind": kind, "key": key_of(secret), "payload": "{}", "exp": exp, "used": int(now)
        }  # fmt: skip
        with told("one_time"):
            try:
                with self._engine.begin() as connection:
                    connection.execute(insert(one_time).values(row))
            except IntegrityError:
                return False
        return True

    def purge(self, now: int) -> int:
        """Drop what ended before `now`; returns how many rows."""
        with told("one_time"), self._engine.begin() as connection:
            return connection.execute(delete(one_time).where(one_time.c.exp < now)).rowcount


def key_of(secret: str) -> str:
    """What is stored of a secret: its SHA-256, base64url."""
    return b64url(hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest())


def _this(kind: str, secret: str) -> tuple[Any, Any]:
    return one_time.c.kind == kind, one_time.c.key == key_of(secret)


def _to_json(payload: Mapping[str, Any]) -> str:
    return json.dumps(payload, sort_keys=True, separators=(",", ":"))


def _read(row: Row[Any], used: int | None) -> Kept:
    return Kept(json.loads(row.payload), row.exp, used)
