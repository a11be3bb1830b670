"""What was taken back, for every worker to see, and what of it the log must still be told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, Row, delete, func, insert, literal, or_, select, update
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.exc import SQLAlchemyError

from agentgw.core.revocation import Kind, Revocation
from agentgw.registry.ledger import heirs_of
from agentgw.registry.schema import ledger, revocations, told, unrecorded

CLAIM_SECONDS = 10
LIFTED_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class Event:
    """What a command line did: a running gateway makes the record of it.

    `at` is Unix seconds, `detail` goes into the record as it is.
    """

    event_id: str
    method: str
    at: float
    detail: Mapping[str, Any]


class Revocations:
    """Revocations by kind and key, in one table. Calls block on the disk; what returned is durable.

    `event` is given where a running gateway has still to record the change (see `claim`). All raise
    Unavailable when the database cannot be read or written.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._watching: Connection | None = None
        self._version: int | None = None

    def revoke_token(self, key: str, until: int, event: Event | None = None) -> int:
        """Revoke a token by its `token_key`, and all that came of it; returns how many those were.

        `until` is when the token ends at the latest, in Unix seconds; the ledger knows better of ours.
        """
        heirs = heirs_of(key)
        with told("revocations"), self._engine.begin() as connection:
            known = connection.scalar(select(ledger.c.exp).where(ledger.c.jti == key))
            _put(connection, "token", key, until if known is None else known, False)
            columns = ("kind", "key", "until", "lifted")
            every = select(literal("token"), heirs.c.jti, heirs.c.exp, literal(False))
            connection.execute(
                upsert(revocations)
                .from_select(columns, every.where(literal(True)))
                .on_conflict_do_nothing()
            )
            count: int = connection.scalar(select(func.count()).select_from(heirs)) or 0
            _leave(connection, event, descendants=count)
        return count

    def revoke_party(
        self, kind: Kind, key: str, until: int | None = None, event: Event | None = None
    ) -> None:
        """Revoke a user (`user_key`) or an agent (its id), until it is lifted or `until` comes."""
        with told("revocations"), self._engine.begin() as connection:
            _put(connection, kind, key, until, False)
            _leave(connection, event)

    def lift(self, kind: Kind, key: str, now: int, event: Event | None = None) -> bool:
        """Let a user or an agent in again; False where they were not revoked."""
        with told("revocations"), self._engine.begin() as connection:
            there = connection.scalar(
                select(revocations.c.seq).where(
                    revocations.c.kind == kind,
                    revocations.c.key == key,
                    revocations.c.lifted.is_(False),
                )
            )
            if there is None:
                return False
            _put(connection, kind, key, now + LIFTED_SECONDS, True)
            _leave(connection, event)
        return True

    def leave(self, event: Event) -> None:
        """Keep what a command did beside the database, until a running gateway recorded it."""
        with told("revocations"), self._engine.begin() as connection:
            _leave(connection, event)

    def moved(self) -> bool:
        """Whether anybody wrote to the database since this was last asked; costs next to nothing.

        To be asked by one thread at a time.
        """
        with told("revocations"):
            try:
                if self._watching is None:
                    self._watching, self._version = self._engine.connect(), None
                version = self._watching.exec_driver_sql("PRAGMA data_version").scalar()
                self._watching.rollback()
            except SQLAlchemyError:
                self.close()
                raise
        before, self._version = self._version, version
        return version != before

    def since(self, seq: int) -> list[Revocation]:
        """What changed after `seq`, in order; all of it after 0."""
        query = select(revocations).where(revocations.c.seq > seq).order_by(revocations.c.seq)
        with told("revocations"), self._engine.connect() as connection:
            return [_read(row) for row in connection.execute(query)]

    def claim(self, now: float) -> list[Event]:
        """Events to record that nobody else is recording; whoever takes them must say `recorded`.

        A claim lapses after ten seconds, so an event whose worker died is recorded by another.
        """
        free = unrecorded.c.claimed < now - CLAIM_SECONDS
        with told("revocations"), self._engine.connect() as connection:
            rows = connection.execute(select(unrecorded).where(free).limit(100)).all()
            mine = []
            for row in rows:
                this = update(unrecorded).where(unrecorded.c.event_id == row.event_id, free)
                if connection.execute(this.values(claimed=now)).rowcount:
                    mine.append(Event(row.event_id, row.method, row.at, json.loads(row.detail)))
            connection.commit()
        return mine

    def recorded(self, event_id: str) -> None:
        """The event is in the log."""
        with told("revocations"), self._engine.begin() as connection:
            connection.execute(delete(unrecorded).where(unrecorded.c.event_id == event_id))

    def close(self) -> None:
        """Give the connection back that `moved` holds."""
        if self._watching is not None:
            self._watching.close()
            self._watching = None

    def purge(self, now: int) -> int:
        """Drop what ended before `now` (Unix seconds); returns how many rows."""
        with told("revocations"), self._engine.begin() as connection:
            return connection.execute(delete(revocations).where(revocations.c.until < now)).rowcount


def _put(connection: Connection, kind: Kind, key: str, until: int | None, lifted: bool) -> None:
    """Write the newest word on one thing, under a number later than any other."""
    same = [revocations.c.kind == kind, revocations.c.key == key]
    if kind == "token":
        same.append(or_(revocations.c.lifted, revocations.c.until < until))
    connection.execute(delete(revocations).where(*same))
    row = {"kind": kind, "key": key, "until": until, "lifted": lifted}
    connection.execute(upsert(revocations).values(row).on_conflict_do_nothing())


def _leave(connection: Connection, event: Event | None, **facts: Any) -> None:
    if event is None:
        return
    row = {
        "event_id": event.event_id,
        "method": event.method,
        "at": event.at,
        "detail": json.dumps({**event.detail, **facts}),
        "claimed": 0.0,
    }
    connection.execute(insert(unrecorded).values(row))


def _read(row: Row[Any]) -> Revocation:
    return Revocation(row.seq, row.kind, row.key, row.until, row.lifted)
