"""Reading records back: all logs of a gateway in the order of time, filtered, once or for ever."""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentgw.audit.directory import LogDirectory, find_logs, read_lines

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Filter:
    """What a record must be; None matches anything. An outcome carries no user, agent or decision:
    it matches where its decision did.

    `user` is `iss|sub` or the bare sub; `agent` an id of the chain or its last path segment; `since`
    an RFC 3339 UTC time, inclusive.
    """

    user: str | None = None
    agent: str | None = None
    server: str | None = None
    tool: str | None = None
    decision: str | None = None
    since: str | None = None
    event_id: str | None = None
    txn: str | None = None


class Matcher:
    """Applies a Filter to records in order, remembering whose outcomes belong to a match."""

    def __init__(self, wanted: Filter) -> None:
        self._wanted = wanted
        self._events: set[object] = set()

    def matches(self, record: Record) -> bool:
        """Whether this record is wanted."""
        if record.get("phase") == "outcome" and self._needs_decision():
            return record.get("event_id") in self._events
        if not self._fits(record):
            return False
        self._events.add(record.get("event_id"))
        return True

    def _needs_decision(self) -> bool:
        wanted = self._wanted
        return (wanted.user, wanted.agent, wanted.decision) != (None, None, None)

    def _fits(self, record: Record) -> bool:
        wanted = self._wanted
        pairs = (
            (wanted.server, "server"), (wanted.tool, "name"), (wanted.decision, "decision"),
            (wanted.event_id, "event_id"), (wanted.txn, "txn"),
        )  # fmt: skip
        return (
            all(value is None or record.get(field) == value for value, field in pairs)
            and (wanted.since is None or str(record.get("time", "")) >= wanted.since)
            and (wanted.user is None or wanted.user in _users(record))
            and (wanted.agent is None or wanted.agent in _agents(record))
        )


def read_records(root: Path, wanted: Filter | None = None) -> Iterator[Record]:
    """The records of all logs under `root`, merged by time, each log in its own order.

    Lines that are no JSON object are left out; `verify` names them. Raises OSError.
    """
    matcher = Matcher(wanted or Filter())
    streams = [_records(log) for log in find_logs(root)]
    for record in heapq.merge(*streams, key=_time):
        if matcher.matches(record):
            yield record


def follow_records(
    root: Path, wanted: Filter | None, wait: Callable[[], None], last: int = 0
) -> Iterator[Record]:
    """The `last` records so far, then new ones as they are written, for ever.

    `wait` is called while there are none. Raises OSError.
    """
    matcher = Matcher(wanted or Filter())
    read: dict[Path, int] = {}
    found = _new_records(root, read, matcher)
    yield from found[max(0, len(found) - last) :]
    while True:
        found = _new_records(root, read, matcher)
        yield from found
        if not found:
            wait()


def _new_records(root: Path, read: dict[Path, int], matcher: Matcher) -> list[Record]:
    """What was written behind the offsets in `read`, which move on; by time."""
    found = []
    for path in _segments(root):
        with path.open("rb") as file:
            file.seek(read.setdefault(path, 0))
            for line in file:
                if not line.endswith(b"\n"):
                    break
                read[path] += len(line)
                record = _record(line)
                if record is not None and matcher.matches(record):
                    found.append(record)
    return sorted(found, key=_time)


def _segments(root: Path) -> list[Path]:
    return [log.segment(number) for log in find_logs(root) for number in log.segments()]


def _records(log: LogDirectory) -> Iterator[Record]:
    for line in read_lines(log):
        record = _record(line)
        if record is not None:
            yield record


def _record(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _time(record: Record) -> str:
    return str(record.get("time", ""))


def _users(record: Record) -> tuple[str, ...]:
    subject = record.get("subject")
    if not isinstance(subject, dict):
        return ()
    return (f"{subject.get('iss')}|{subject.get('sub')}", str(subject.get("sub")))


def _agents(record: Record) -> list[str]:
    ids = [str(hop.get("id")) for hop in record.get("chain") or () if isinstance(hop, dict)]
    return ids + [id.rpartition("/")[2] for id in ids]
