"""The tables. Other modules of this room each speak to one of them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import (
    Boolean,
    Column,
    Engine,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    inspect,
    text,
)
from sqlalchemy.exc import SQLAlchemyError

from agentgw.errors import Unavailable

metadata = MetaData()

people = Table(
    "people",
    metadata,
    Column("iss", String, primary_key=True),
    Column("sub", String, primary_key=True),
    Column("key", LargeBinary, nullable=False),
    Column("name", Text),
)

ledger = Table(
    "ledger",
    metadata,
    Column("jti", String, primary_key=True),
    Column("parent", String, index=True),
    Column("txn", String, index=True, nullable=False),
    Column("exp", Integer, index=True, nullable=False),
    Column("entry", Text, nullable=False),
    Column("subject", String, index=True),
)

revocations = Table(
    "revocations",
    metadata,
    # Never used again, so that a worker can ask for what came after the last one it saw.
    Column("seq", Integer, primary_key=True),
    Column("kind", String, nullable=False),
    Column("key", String, nullable=False),
    Column("until", Integer, index=True),
    Column("lifted", Boolean, nullable=False),
    UniqueConstraint("kind", "key"),
    sqlite_autoincrement=True,
)

unrecorded = Table(
    "unrecorded",
    metadata,
    Column("event_id", String, primary_key=True),
    Column("method", String, nullable=False),
    Column("at", Float, nullable=False),
    Column("detail", Text, nullable=False),
    Column("claimed", Float, nullable=False),
)

used_assertions = Table(
    "used_assertions",
    metadata,
    Column("client", String, primary_key=True),
    Column("jti", String, primary_key=True),
    Column("exp", Integer, index=True, nullable=False),
)

pins = Table(
    "pins",
    metadata,
    Column("server", String, primary_key=True),
    Column("tool", String, primary_key=True),
    Column("digest", String, nullable=False),
)

one_time = Table(
    "one_time",
    metadata,
    Column("kind", String, primary_key=True),
    Column("key", String, primary_key=True),
    Column("payload", Text, nullable=False),
    Column("exp", Integer, index=True, nullable=False),
    Column("used", Integer),
)

vault = Table(
    "vault",
    metadata,
    Column("user_iss", String, primary_key=True),
    Column("user_sub", String, primary_key=True),
    Column("issuer", String, primary_key=True),
    Column("server", String, primary_key=True),
    Column("resource", String, primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
    Column("connected", Float, nullable=False),
    # Counts every change, so that of two workers who read the same row one alone may change it.
    Column("version", Integer, nullable=False),
    Column("claimed", Float, nullable=False),
)

hourly = Table(
    "hourly",
    metadata,
    Column("kind", String, primary_key=True),
    Column("source", String, primary_key=True),
    Column("hour", Integer, primary_key=True),
    Column("count", Integer, nullable=False),
)

refresh_tokens = Table(
    "refresh_tokens",
    metadata,
    Column("key", String, primary_key=True),
    Column("login", String, index=True, nullable=False),
    Column("client_id", String, nullable=False),
    Column("jkt", String),
    Column("exp", Integer, index=True, nullable=False),
    Column("used_by", String),
)

consents = Table(
    "consents",
    metadata,
    Column("subject", String, primary_key=True),
    Column("client_id", String, primary_key=True),
    Column("agent", String, primary_key=True),
    Column("resource", String, primary_key=True),
    Column("choice", Text, nullable=False),
    Column("at", Integer, index=True, nullable=False),
)

dynamic_clients = Table(
    "dynamic_clients",
    metadata,
    Column("client_id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("redirect_uris", Text, nullable=False),
    Column("at", Integer, nullable=False),
    Column("used", Integer, index=True, nullable=False),
)


def open_database(path: Path) -> Engine:
    """Open the state database at `path`, made 0600 with its tables on first use.

    WAL with full sync: what a transaction committed is on disk. Several workers may hold it open.
    """
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 5})

    @event.listens_for(engine, "connect")
    def _set_pragmas(connection: object, _: object) -> None:
        cursor = connection.cursor()  # type: ignore[attr-defined]
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.close()

    with _alone_in(path.parent):
        _add_what_is_new(engine)
        metadata.create_all(engine)
    return engine


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Of workers that start together one makes the tables: to look and to make are two steps."""
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def _add_what_is_new(engine: Engine) -> None:
    """Give a database made by an earlier version the columns it lacks."""
    found = inspect(engine)
    if not found.has_table("ledger") or any(
        column["name"] == "subject" for column in found.get_columns("ledger")
    ):
        return
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE ledger ADD COLUMN subject VARCHAR"))
        connection.execute(text("CREATE INDEX ix_ledger_subject ON ledger (subject)"))


@contextmanager
def told(table: str) -> Iterator[None]:
    """Say Unavailable, without the statement and its values, where `table` cannot be used."""
    try:
        yield
    except SQLAlchemyError as error:
        why = getattr(error, "orig", None) or type(error).__name__
        raise Unavailable(f"{table} of the state database cannot be used: {why}") from None
