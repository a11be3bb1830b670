"""What we issued at our own endpoints, so that nothing else can pass for it (one table)."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from sqlalchemy import Engine, delete, insert, select
from sqlalchemy.exc import SQLAlchemyError

from agentgw.core.principal import Hop, Issued, Subject
from agentgw.errors import Unavailable
from agentgw.registry.schema import ledger


class Ledger:
    """Remembers issued tokens by `jti`. Calls block on the disk: keep them out of the event loop.

    All raise Unavailable when the database cannot be read or written.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def record(self, issued: Issued) -> None:
        """Keep `issued`; on return it is on disk. A jti already there counts as Unavailable."""
        row = {
            "jti": issued.jti,
            "parent": issued.parent,
            "txn": issued.txn,
            "exp": issued.exp,
            "entry": _to_json(issued),
        }
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(ledger).values(row))
        except SQLAlchemyError as error:
            raise _unavailable("written") from error

    def find(self, jti: str) -> Issued | None:
        """What was issued under `jti`, or None."""
        try:
            with self._engine.connect() as connection:
                entry = connection.scalar(select(ledger.c.entry).where(ledger.c.jti == jti))
        except SQLAlchemyError as error:
            raise _unavailable("read") from error
        return None if entry is None else _from_json(entry)

    def purge(self, now: int) -> int:
        """Drop what expired before `now` (Unix seconds); returns how many rows."""
        try:
            with self._engine.begin() as connection:
                return connection.execute(delete(ledger).where(ledger.c.exp < now)).rowcount
        except SQLAlchemyError as error:
            raise _unavailable("written") from error


def _to_json(issued: Issued) -> str:
    return json.dumps(asdict(issued), default=sorted, separators=(",", ":"))


def _from_json(entry: str) -> Issued:
    values: dict[str, Any] = json.loads(entry)
    for name in ("groups", "scopes", "resources"):
        values[name] = frozenset(values[name])
    values["subject"] = Subject(**values["subject"])
    values["chain"] = tuple(Hop(**hop) for hop in values["chain"])
    return Issued(**values)


def _unavailable(what: str) -> Unavailable:
    return Unavailable(f"the ledger of issued tokens cannot be {what}: look at the state database")
