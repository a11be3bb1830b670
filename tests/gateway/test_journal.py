"""Commits are made under a key that dies when its subject is forgotten."""

from __future__ import annotations

from pathlib import Path

from agentgw.core.principal import Subject
from agentgw.gateway.journal import KEYED_LIFE, Entry, Journal, committer
from agentgw.registry.people import People
from agentgw.registry.schema import open_database
from tests.core.test_record import PARAMS_DIGEST

ENTRY = Entry("e-1", None, "time", "tools/call", "now", Subject("acme", "alice", "acme|alice"), 0.0)


class Kept:
    """A log in memory."""

    def __init__(self) -> None:
        self.records: list[dict[str, object]] = []

    async def append(self, record: dict[str, object]) -> int:
        self.records.append(record)
        return len(self.records) - 1

    async def enqueue(self, record: dict[str, object]) -> int:
        return await self.append(record)

    def append_soon(self, record: dict[str, object]) -> None:
        self.records.append(record)

    async def close(self) -> None:
        return None


def test_the_commit_of_the_story_is_an_hmac_over_the_digest() -> None:
    expected = "hmac-sha-256:Hl0P5XTTF4M2ukNPCsOtArMZkIuytUXc9uQM2GtsOLw"
    under_k = committer(b"k" * 32)
    assert under_k(PARAMS_DIGEST) == under_k(PARAMS_DIGEST) == expected
    assert committer(b"l" * 32)(PARAMS_DIGEST) != expected


def test_the_key_of_a_subject_forgotten_elsewhere_dies_within_its_time(tmp_path: Path) -> None:
    now = 1_795_400_000.0
    engine = open_database(tmp_path / "agentgw.db")
    log = Kept()
    journal = Journal(log, People(engine, max_age=0), lambda: now, bytes)

    def commit() -> object:
        journal.close(ENTRY, "ok", result="sha-256:of-something")
        return log.records[-1]["result_commit"]

    before = commit()
    People(engine).forget("acme", "alice")
    now += KEYED_LIFE - 1
    assert commit() == before
    now += 1
    assert commit() != before
    engine.dispose()
