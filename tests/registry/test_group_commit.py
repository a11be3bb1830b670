"""Writes that wait for the disk together, and fail apart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.exc import OperationalError

from agentgw.errors import OAuthError, Unavailable
from agentgw.registry.group_commit import GroupCommit

pytestmark = pytest.mark.anyio


class Table:
    """A table of numbers under a GroupCommit; `commits` counts transactions."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 0.05})
        with self.engine.begin() as connection:
            connection.execute(text("CREATE TABLE numbers (n INTEGER PRIMARY KEY)"))
        self.commits = 0
        event.listen(self.engine, "commit", self._count)
        self.group = GroupCommit(self.engine, lambda: Unavailable("no disk"))

    def _count(self, _: Connection) -> None:
        self.commits += 1

    def adding(self, number: int) -> Callable[[Connection], None]:
        def add(connection: Connection) -> None:
            connection.execute(text("INSERT INTO numbers VALUES (:n)"), {"n": number})

        return add

    async def add(self, number: int) -> None:
        await self.group.run(self.adding(number))

    def numbers(self) -> list[int]:
        """What a stranger reads from the file."""
        other = create_engine(f"sqlite:///{self.path}")
        with other.connect() as connection:
            found = list(connection.scalars(text("SELECT n FROM numbers ORDER BY n")))
        other.dispose()
        return found


@pytest.fixture
async def table(tmp_path: Path) -> AsyncIterator[Table]:
    made = Table(tmp_path / "numbers.db")
    yield made
    await made.group.close()
    made.engine.dispose()


async def test_what_returned_is_there_for_others(table: Table) -> None:
    await table.add(1)
    assert table.numbers() == [1]


async def test_writes_at_once_share_a_few_transactions(table: Table) -> None:
    await asyncio.gather(*map(table.add, range(500)))
    assert table.numbers() == list(range(500))
    assert table.commits < 50


async def test_a_refusal_of_one_write_is_that_callers_alone(table: Table) -> None:
    def refuse(_: Connection) -> None:
        raise OAuthError("invalid_grant", "revoked")

    results = await asyncio.gather(
        table.add(1), table.group.run(refuse), table.add(2), return_exceptions=True
    )
    assert [type(result) for result in results] == [type(None), OAuthError, type(None)]
    assert table.numbers() == [1, 2]


async def test_a_write_the_database_refuses_fails_alone(table: Table) -> None:
    await table.add(7)
    results = await asyncio.gather(*map(table.add, (1, 7, 2)), return_exceptions=True)
    assert [type(result) for result in results] == [type(None), Unavailable, type(None)]
    assert table.numbers() == [1, 2, 7]


async def test_a_locked_database_refuses_everybody_and_later_nobody(table: Table) -> None:
    other = create_engine(f"sqlite:///{table.path}")
    with other.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        results = await asyncio.gather(*map(table.add, (1, 2)), return_exceptions=True)
        connection.rollback()
    other.dispose()
    for result in results:
        assert isinstance(result, Unavailable)
        assert isinstance(result.__cause__, OperationalError)
    await table.add(3)
    assert table.numbers() == [3]


async def test_who_goes_away_takes_nobody_along(table: Table) -> None:
    leaver, stayer = asyncio.create_task(table.add(1)), asyncio.create_task(table.add(2))
    await asyncio.sleep(0)
    leaver.cancel()
    await stayer
    assert 2 in table.numbers()
    await table.add(3)


async def test_closing_writes_what_waits_and_takes_no_more(table: Table) -> None:
    waiting = [asyncio.create_task(table.add(number)) for number in range(5)]
    await asyncio.sleep(0)
    await table.group.close()
    assert table.numbers() == [0, 1, 2, 3, 4]
    await asyncio.gather(*waiting)
    with pytest.raises(Unavailable):
        await table.add(9)
