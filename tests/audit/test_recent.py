"""The last events of one person, read from the ends of long logs."""

from __future__ import annotations

from pathlib import Path

from agentgw.audit.files import OsFiles
from agentgw.audit.recent import recent_events
from tests.audit.records import bodies, decision, outcome, writer


def write(
    root: Path, name: str, *records: dict[str, object], segment_bytes: int = 1_000_000
) -> None:
    log = writer(root, OsFiles(), name, segment_bytes=segment_bytes)
    log.open()
    for record in records:
        log.commit(bodies(record))
    log.close()


def at(number: int, time: str, **changes: object) -> dict[str, object]:
    return decision(number) | {"time": f"2026-11-23T05:46:{time}Z", **changes}


def ids(root: Path, count: int = 10, most: int = 1_000_000, sub: str = "alice") -> list[object]:
    return [event.decision["id"] for event in recent_events(root, "acme", sub, count, most)]


def test_the_newest_come_first_from_all_logs_with_their_outcomes(tmp_path: Path) -> None:
    write(tmp_path, "gw-1", at(1, "45.120"), outcome(1), at(3, "47.000"))
    write(tmp_path, "gw-2", at(2, "46.000"))
    found = recent_events(tmp_path, "acme", "alice", 10)
    assert [event.decision["id"] for event in found] == ["d-3", "d-2", "d-1"]
    assert [event.outcome and event.outcome["outcome"] for event in found] == [None, None, "ok"]
    assert ids(tmp_path, count=2) == ["d-3", "d-2"]


def test_nobody_sees_another_of_a_similar_name(tmp_path: Path) -> None:
    others = [
        {"iss": "other", "sub": "alice"}, {"iss": "other", "sub": "acme|alice"},
        {"iss": "acme", "sub": "alice2"}, {"iss": "acme", "sub": "alice", "more": 1}, None,
    ]  # fmt: skip
    records = [at(n, f"{10 + n}.000", subject=subject) for n, subject in enumerate(others)]
    write(tmp_path, "gw-1", *records, at(9, "45.000"))
    assert ids(tmp_path) == ["d-9"]


def test_no_more_is_read_than_asked_for(tmp_path: Path) -> None:
    write(tmp_path, "gw-1", *(at(n, f"{10 + n}.000") for n in range(40)))
    size = (tmp_path / "gw-1" / "00000001.jsonl").stat().st_size
    assert ids(tmp_path, 40) == [f"d-{n}" for n in range(39, -1, -1)]
    line = size // 40
    assert len(ids(tmp_path, 40, most=line * 5 + line // 2)) == 5
    assert ids(tmp_path, 40, most=1) == []


def test_older_segments_are_read_where_the_last_is_short(tmp_path: Path) -> None:
    write(tmp_path, "gw-1", *(at(n, f"{10 + n}.000") for n in range(40)), segment_bytes=2000)
    assert len(list((tmp_path / "gw-1").glob("*.jsonl"))) > 5
    assert ids(tmp_path, 40) == [f"d-{n}" for n in range(39, -1, -1)]


def test_what_is_no_record_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path, "gw-1", at(1, "45.000"), at(2, "46.000"))
    with (tmp_path / "gw-1" / "00000001.jsonl").open("ab") as file:
        file.write(b'not json\n[1]\n{"torn')
    assert ids(tmp_path) == ["d-2", "d-1"]


def test_without_logs_there_is_nothing(tmp_path: Path) -> None:
    assert recent_events(tmp_path, "acme", "alice", 10) == []
