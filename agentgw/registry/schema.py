"""The tables. Other modules of this room each speak to one of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import (
    Column,
    Engine,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
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

    metadata.create_all(engine)
    return engine


@contextmanager
def told(table: str) -> Iterator[None]:
    """Say Unavailable, without the statement and its values, where `table` cannot be used."""
    try:
        yield
    except SQLAlchemyError as error:
        why = getattr(error, "orig", None) or type(error).__name__
        raise Unavailable(f"{table} of the state database cannot be used: {why}") from None
