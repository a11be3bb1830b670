"""The state database comes into being once, however many ask for it at that moment."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

from sqlalchemy import create_engine, inspect, text

from agentgw.registry.schema import metadata, open_database

WORKERS = 4


def opened_at_once(path: Path) -> None:
    """As the workers of a gateway do that start together."""
    together = Barrier(WORKERS)

    def open_it(_: int) -> None:
        together.wait(10)
        open_database(path).dispose()

    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(open_it, range(WORKERS)))


def test_workers_that_start_together_make_it_once(tmp_path: Path) -> None:
    for number in range(5):
        path = tmp_path / f"{number}.db"
        opened_at_once(path)
        engine = open_database(path)
        assert set(inspect(engine).get_table_names()) == set(metadata.tables)
        engine.dispose()


def test_workers_that_start_together_bring_an_older_one_up_to_date(tmp_path: Path) -> None:
    for number in range(5):
        path = tmp_path / f"{number}.db"
        older = create_engine(f"sqlite:///{path}")
        with older.begin() as connection:
            connection.execute(text("CREATE TABLE ledger (jti VARCHAR PRIMARY KEY, entry VARCHAR)"))
        older.dispose()
        opened_at_once(path)
        engine = open_database(path)
        found = inspect(engine)
        assert "subject" in {column["name"] for column in found.get_columns("ledger")}
        assert [index["name"] for index in found.get_indexes("ledger")] == ["ix_ledger_subject"]
        engine.dispose()
