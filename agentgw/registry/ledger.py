"""What we issued to be used or exchanged at our own endpoints, so that nothing else can pass for it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import orjson
from sqlalchemy import (
    CTE,
    BindParameter,
    ColumnElement,
    Connection,
    Engine,
    Exists,
    Insert,
    Integer,
    String,
    bindparam,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
)

from agentgw.core.authorization_details import OneTool
from agentgw.core.consent import read_consent
from agentgw.core.login_grants import PENDING_SECONDS, Standing
from agentgw.core.possession import Binding
from agentgw.core.principal import Hop, Issued, Subject
from agentgw.core.recheck import sign_in_key
from agentgw.core.revocation import user_key
from agentgw.errors import OAuthError, Unavailable
from agentgw.registry.group_commit import GroupCommit
from agentgw.registry.schema import ledger, refresh_tokens, revocations, told

_ANY_NUMBER = -1
_SIGN_IN = sign_in_key("")
_UNWRITABLE = "ledger of the state database cannot be written"


class Ledger:
    """Remembers issued tokens by `jti`. Calls block on the disk: keep them out of the event loop.

    All raise Unavailable when the database cannot be read or written.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def record(self, issued: Issued, siblings: int | None = None) -> None:
        """Keep `issued`; on return it is on disk. A jti already there counts as Unavailable.

        Raises OAuthError as `write` does.
        """
        with told("ledger"), self._engine.begin() as connection:
            self.write(connection, issued, siblings)

    def write(self, connection: Connection, issued: Issued, siblings: int | None = None) -> None:
        """Keep `issued` within a transaction of the caller's.

        Raises OAuthError (invalid_grant) where what it was exchanged for is revoked: whichever of the
        two comes first in the database, no child outlives its parent. Or where it would be one more than
        `siblings` of that parent, however many ask at once.
        """
        row = {
            "new_jti": issued.jti,
            "new_parent": issued.parent,
            "new_txn": issued.txn,
            "new_exp": issued.exp,
            "new_entry": _to_json(issued),
            "new_subject": user_key(issued.subject.iss, issued.subject.sub),
            "siblings": _ANY_NUMBER if siblings is None else siblings,
        }
        if connection.execute(_KEEP, row).rowcount:
            return
        if connection.scalar(_REVOKED, row):
            raise OAuthError("invalid_grant", "the subject_token was revoked")
        raise OAuthError("invalid_grant", "the subject_token was exchanged as often as it may be")

    def find(self, jti: str) -> Issued | None:
        """What was issued under `jti`, or None."""
        found = self._all(ledger.c.jti == jti)
        return found[0] if found else None

    def descendants(self, key: str) -> list[Issued]:
        """All that came of the token of that `token_key`, over however many exchanges."""
        return self._all(ledger.c.jti.in_(select(heirs_of(key).c.jti)))

    def logins(self, subject: Subject, now: int) -> list[Standing]:
        """The logins by which agents may act for `subject` now (Unix seconds), the newest first.

        One that nobody took up in time is none, nor one that went out of use.
        """
        revoked = exists().where(
            revocations.c.kind == "token",
            revocations.c.key == ledger.c.jti,
            revocations.c.lifted.is_(False),
        )
        refreshes = exists().where(refresh_tokens.c.login == ledger.c.jti)
        goes_on = refreshes.where(refresh_tokens.c.exp > now, refresh_tokens.c.used_by.is_(None))
        child = ledger.alias()
        in_use = exists().where(child.c.parent == ledger.c.jti, child.c.exp > now)
        query = select(ledger.c.entry, or_(goes_on, in_use), refreshes).where(
            ledger.c.subject == user_key(subject.iss, subject.sub),
            or_(ledger.c.parent.is_(None), ledger.c.parent.startswith(_SIGN_IN)),
            ledger.c.exp > now,
            ~revoked,
        )
        with told("ledger"), self._engine.connect() as connection:
            rows = [(_from_json(row[0]), row[1], row[2]) for row in connection.execute(query)]
        found = [
            Standing(entry, not live)
            for entry, live, begun in rows
            if (entry.kind, entry.subject.iss) == ("login", subject.iss)
            and (live or (not begun and entry.iat > now - PENDING_SECONDS))
        ]
        return sorted(found, key=lambda login: login.entry.iat, reverse=True)

    def count_children(self, jti: str) -> int:
        """How many tokens still remembered were exchanged for the one of `jti`."""
        count = select(func.count()).select_from(ledger).where(ledger.c.parent == jti)
        with told("ledger"), self._engine.connect() as connection:
            return connection.scalar(count) or 0

    def purge(self, now: int) -> int:
        """Drop what expired before `now` (Unix seconds); returns how many rows."""
        with told("ledger"), self._engine.begin() as connection:
            return connection.execute(delete(ledger).where(ledger.c.exp < now)).rowcount

    def _all(self, which: ColumnElement[bool]) -> list[Issued]:
        entries = select(ledger.c.entry).where(which).order_by(ledger.c.exp, ledger.c.jti)
        with told("ledger"), self._engine.connect() as connection:
            return [_from_json(entry) for entry in connection.scalars(entries)]


class LedgerQueue:
    """The ledger as the event loop sees it: what is recorded at the same time is committed together.

    `ledger` is the same for those who may block.
    """

    def __init__(self, engine: Engine) -> None:
        self.ledger = Ledger(engine)
        self._commits = GroupCommit(engine, lambda: Unavailable(_UNWRITABLE))

    async def record(self, issued: Issued, siblings: int | None = None) -> None:
        """Keep `issued`; on return it is on disk. Raises as `Ledger.record` does."""
        await self._commits.run(lambda connection: self.ledger.write(connection, issued, siblings))

    async def count_children(self, jti: str) -> int:
        """How many tokens still remembered were exchanged for the one of `jti`. Raises Unavailable."""
        return await asyncio.to_thread(self.ledger.count_children, jti)

    async def find(self, jti: str) -> Issued | None:
        """As `Ledger.find`. Raises Unavailable."""
        return await asyncio.to_thread(self.ledger.find, jti)

    async def logins(self, subject: Subject, now: int) -> list[Standing]:
        """As `Ledger.logins`. Raises Unavailable."""
        return await asyncio.to_thread(self.ledger.logins, subject, now)

    async def close(self) -> None:
        """Write what waits, and take no more."""
        await self._commits.close()


def heirs_of(key: str) -> CTE:
    """The `jti` and `exp` of all that came of a token, as a query to build on.

    No child outlives its parent, so an entry that was purged leaves no heir behind.
    """
    heirs = (
        select(ledger.c.jti, ledger.c.exp)
        .where(ledger.c.parent == key)
        .cte("heirs", recursive=True)
    )
    further = select(ledger.c.jti, ledger.c.exp).where(ledger.c.parent == heirs.c.jti)
    return heirs.union(further)


def _is_revoked() -> Exists:
    return exists().where(
        revocations.c.kind == "token",
        revocations.c.key == bindparam("new_parent", type_=String()),
        revocations.c.lifted.is_(False),
    )


def _keep() -> Insert:
    """Write a row unless its parent is revoked, or has as many children as it may have, as one statement:
    nothing can come in between."""
    columns = ("jti", "parent", "txn", "exp", "entry", "subject")
    values: list[BindParameter[Any]] = [
        bindparam(f"new_{name}", type_=Integer() if name == "exp" else String()) for name in columns
    ]
    most = bindparam("siblings", type_=Integer())
    children = (
        select(func.count())
        .select_from(ledger)
        .where(ledger.c.parent == bindparam("new_parent", type_=String()))
        .scalar_subquery()
    )
    room = or_(most == _ANY_NUMBER, children < most)
    return insert(ledger).from_select(columns, select(*values).where(~_is_revoked(), room))


_KEEP = _keep()
_REVOKED = select(_is_revoked())


def _to_json(issued: Issued) -> str:
    return orjson.dumps(issued, default=sorted).decode()


def _from_json(entry: str) -> Issued:
    values: dict[str, Any] = json.loads(entry)
    for name in ("groups", "scopes", "resources"):
        values[name] = frozenset(values[name])
    values["subject"] = Subject(**values["subject"])
    if values.get("binding") is not None:
        values["binding"] = Binding(**values["binding"])
    values["receipts"] = tuple(values.get("receipts", ()))
    values["chain"] = tuple(Hop(**hop) for hop in values["chain"])
    if values.get("details") is not None:
        values["details"] = OneTool(**values["details"])
    if values.get("consent") is not None:
        values["consent"] = read_consent(values["consent"])
    return Issued(**values)
