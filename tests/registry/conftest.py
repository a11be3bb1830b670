"""A database for each test of what is kept in one, and a test that leaves one open fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import Pool

from agentgw.registry.schema import open_database

Open = Callable[[Path], Engine]


@pytest.fixture(autouse=True)
def _nothing_is_left_open() -> Iterator[None]:
    """Fail a test that leaves a connection to a database open: from 3.13 on Python warns of it, later."""
    opened: dict[int, DBAPIConnection] = {}

    def keep(connection: DBAPIConnection, _: object) -> None:
        opened[id(connection)] = connection

    def forget(connection: DBAPIConnection, _: object = None) -> None:
        opened.pop(id(connection), None)

    heard = (("connect", keep), ("close", forget), ("close_detached", forget))
    for name, listener in heard:
        event.listen(Pool, name, listener)
    yield
    for name, listener in heard:
        event.remove(Pool, name, listener)
    assert not opened, f"{len(opened)} connections were left open: dispose of the engine"


@pytest.fixture
def another(_nothing_is_left_open: None) -> Iterator[Open]:
    """Opens the database at a path, as another process would, until the test ends."""
    with ExitStack() as stack:

        def opening(path: Path) -> Engine:
            engine = open_database(path)
            stack.callback(engine.dispose)
            return engine

        yield opening
