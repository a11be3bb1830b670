"""The last events of one person, from the ends of the logs: bounded, however long the logs are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from agentgw.audit.directory import LogDirectory, find_logs

MOST_BYTES = 4 * 1024 * 1024
"""How far back is looked, over all logs together."""


class RecentEvent(NamedTuple):
    """A decision and its outcome, None where none is written (yet)."""

    decision: dict[str, Any]
    outcome: dict[str, Any] | None


def recent_events(
    root: Path, iss: str, sub: str, count: int, most_bytes: int = MOST_BYTES
) -> list[RecentEvent]:
    """The last `count` decisions about the subject `iss`, `sub` in all logs under `root`, newest first.

    Older ones than the last `most_bytes` of the logs are not found. Raises OSError.
    """
    logs = find_logs(root)
    decisions: list[dict[str, Any]] = []
    outcomes: dict[object, dict[str, Any]] = {}
    for log in logs:
        for record in _last_records(log, most_bytes // len(logs)):
            if record.get("phase") == "outcome":
                outcomes[record.get("event_id")] = record
            elif record.get("subject") == {"iss": iss, "sub": sub}:
                decisions.append(record)
    decisions.sort(key=lambda record: str(record.get("time", "")), reverse=True)
    return [RecentEvent(each, outcomes.get(each.get("event_id"))) for each in decisions[:count]]


def _last_records(log: LogDirectory, most_bytes: int) -> Iterator[dict[str, Any]]:
    left = most_bytes
    for number in reversed(log.segments()):
        if left <= 0:
            return
        with log.segment(number).open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - left))
            lines = file.read(left).split(b"\n")
        # The first piece may be the end of a line, the last one is what no line feed ends.
        for line in lines[1 if size > left else 0 : -1]:
            record = _record(line)
            if record is not None:
                yield record
        left -= size


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
