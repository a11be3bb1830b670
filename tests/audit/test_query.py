"""Records are found by who, what and when, and followed as they are written."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from agentgw.audit.files import OsFiles
from agentgw.audit.query import Filter, follow_records, read_records
from tests.audit.records import bodies, decision, outcome, writer


def write(root: Path, name: str, *records: dict[str, object]) -> None:
    log = writer(root, OsFiles(), name)
    log.open()
    log.commit(bodies(*records))
    log.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    denied = decision(2) | {
        "decision": "deny", "time": "2026-11-23T05:46:46.000Z", "server": "time",
        "subject": {"iss": "acme", "sub": "bob"}, "txn": "t-2",
    }  # fmt: skip
    write(tmp_path, "gw-1", decision(1), outcome(1), denied)
    write(tmp_path, "gw-2", decision(3) | {"time": "2026-11-23T05:46:45.999Z", "chain": []})
    return tmp_path


def found(root: Path, **wanted: Any) -> list[str]:
    return [record["id"] for record in read_records(root, Filter(**wanted))]


def test_all_logs_are_read_in_the_order_of_time(root: Path) -> None:
    assert found(root) == ["d-1", "o-1", "d-3", "d-2"]


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        ({"user": "acme|alice"}, ["d-1", "o-1", "d-3"]),
        ({"user": "bob"}, ["d-2"]),
        ({"user": "other|alice"}, []),
        ({"agent": "coder"}, ["d-1", "o-1", "d-2"]),
        ({"agent": "https://gw.example.com/a2a/coder", "user": "bob"}, ["d-2"]),
        ({"server": "time"}, ["d-2"]),
        ({"tool": "close_ticket"}, ["d-1", "d-3", "d-2"]),
        ({"decision": "deny"}, ["d-2"]),
        ({"decision": "allow"}, ["d-1", "o-1", "d-3"]),
        ({"since": "2026-11-23T05:46:45.999Z"}, ["d-3", "d-2"]),
        ({"event_id": "e-1"}, ["d-1", "o-1"]),
        ({"txn": "t-2"}, ["d-2"]),
    ],
)
def test_finds_what_fits_and_its_outcome(
    root: Path, wanted: dict[str, str], ids: list[str]
) -> None:
    assert found(root, **wanted) == ids


def test_follows_into_new_records_and_new_logs_and_waits_for_whole_lines(root: Path) -> None:
    waits = 0

    def wait() -> None:
        nonlocal waits
        waits += 1
        segment = root / "gw-1" / "00000001.jsonl"
        match waits:
            case 1:
                with segment.open("ab") as file:
                    file.write(b'{"id":"half')
            case 2:
                with segment.open("ab") as file:
                    file.write(b'"}\n')
            case 3:
                write(root, "gw-3", decision(9))
            case _:
                raise AssertionError("nothing came")

    records = follow_records(root, None, wait, last=2)
    assert [record["id"] for record in islice(records, 4)] == ["d-3", "d-2", "half", "d-9"]
