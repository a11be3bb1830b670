"""Whether a log is what it was: every line, leaf, checkpoint and signature, from nothing but its files.

`tools/verify_log.py` says the same in other words; the two must agree on every log.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

from agentgw.audit.directory import LogDirectory, find_logs
from agentgw.audit.keys import verify_ed25519
from agentgw.core.checkpoint import (
    Checkpoint,
    NoteInvalid,
    VerifierKey,
    note_text,
    open_note,
    parse_checkpoint,
    parse_manifest,
    split_notes,
)
from agentgw.core.merkle import HASH_SIZE, CompactRange, leaf_hash
from agentgw.core.record import VERSION

Assurance = Literal["self", "held", "witnessed"]


_WITHOUT_OUTCOME = frozenset({"server/approve"})
"""Decisions about a server that send it nothing, so that nothing can become of them."""


@dataclass(frozen=True, slots=True)
class FirstBad:
    """The first record that cannot be believed: `seq` counts from 0, `id` is None where unreadable."""

    log: str
    seq: int
    id: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found. `covered_to` counts the records the checkpoints vouch for; `unknown` the allowed
    calls without an outcome (no failure: the gateway may have died between the two)."""

    ok: bool
    records: int
    checkpoints: int
    first_bad: FirstBad | None
    assurance: Assurance
    covered_to: int
    unknown: int
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """The object `agentgw audit verify --json` prints."""
        bad = self.first_bad
        return {
            "ok": self.ok,
            "records": self.records,
            "checkpoints": self.checkpoints,
            "first_bad": bad
            and {"log": bad.log, "seq": bad.seq, "id": bad.id, "reason": bad.reason},
            "assurance": self.assurance,
            "covered_to": self.covered_to,
            "unknown": self.unknown,
            "notes": list(self.notes),
        }


class _Bad(Exception):
    def __init__(self, log: str, seq: int, reason: str, id: str | None = None) -> None:
        super().__init__(reason)
        self.first_bad = FirstBad(log, seq, id, reason)


@dataclass(slots=True)
class _Tally:
    records: int = 0
    checkpoints: int = 0
    own: int = 0
    held: int = 0
    unheld: list[str] = field(default_factory=list)
    unknown: int = 0
    notes: list[str] = field(default_factory=list)


def verify(directory: Path, keys: Sequence[VerifierKey], held: str | None = None) -> Verification:
    """Check the logs under `directory` (the `log` folder, or one log's own).

    `keys` come from elsewhere, never from the log's folder; without them signatures stay unchecked.
    `held` is the text of one or more checkpoints that were kept elsewhere: they show what was cut off,
    rolled back or forked. Raises OSError where files cannot be read.
    """
    tally = _Tally()
    first_bad = None
    try:
        _verify_all(directory, keys, held, tally)
    except _Bad as bad:
        first_bad = bad.first_bad
    if not keys:
        tally.notes.append("no key was given: signatures are unchecked")
    is_held = held is not None and not tally.unheld
    if not is_held:
        which = f" of {', '.join(tally.unheld)}" if held is not None else ""
        tally.notes.append(f"no held checkpoint{which}: truncation cannot be excluded")
    return Verification(
        ok=first_bad is None,
        records=tally.records,
        checkpoints=tally.checkpoints,
        first_bad=first_bad,
        assurance="held" if is_held else "self",
        covered_to=tally.held if is_held else tally.own,
        unknown=tally.unknown,
        notes=tuple(tally.notes),
    )


def _verify_all(
    directory: Path, keys: Sequence[VerifierKey], held: str | None, tally: _Tally
) -> None:
    if not directory.is_dir():
        raise _Bad(directory.name, 0, "there is no such log")
    logs = find_logs(directory)
    alone = [log.path for log in logs] == [directory.resolve()]
    listed = None if alone else _manifest(directory / "manifest", keys)
    kept = _held(held, keys)
    checks = [_LogCheck(log, keys, alone, tally) for log in logs]
    present = {check.name for check in checks}
    if listed is not None:
        filled = {log.name for log in logs if log.checkpoints.exists()}
        for name in sorted(filled - set(listed)):
            raise _Bad("manifest", 0, f"the log {name} is not listed")
        for name in sorted(set(listed) - present):
            raise _Bad("manifest", 0, f"the log {name} is listed but missing")
    if alone:
        tally.notes.append(f"{checks[0].name}: checked alone, as no manifest lists the others")
    for name in kept:
        if name not in present:
            raise _Bad(name, 0, "a checkpoint is held but the log is missing")
    for check in checks:
        check.run(kept.get(check.name, []))


def _manifest(path: Path, keys: Sequence[VerifierKey]) -> tuple[str, ...]:
    try:
        return parse_manifest(_open(_text(path), keys)[0])
    except FileNotFoundError:
        raise _Bad("manifest", 0, "the manifest is missing") from None
    except NoteInvalid as error:
        raise _Bad("manifest", 0, f"the manifest does not hold: {error}") from None


def _held(text: str | None, keys: Sequence[VerifierKey]) -> dict[str, list[Checkpoint]]:
    kept: dict[str, list[Checkpoint]] = {}
    if text is None:
        return kept
    notes, rest = split_notes(text.rstrip("\n") + "\n\n")
    try:
        if rest or not notes:
            raise NoteInvalid("it is no signed note")
        for note in notes:
            checkpoint = parse_checkpoint(_open(note, keys)[0])
            kept.setdefault(checkpoint.log, []).append(checkpoint)
    except NoteInvalid as error:
        raise _Bad("", 0, f"the held checkpoint does not hold: {error}") from None
    return kept


def _open(note: str, keys: Sequence[VerifierKey]) -> tuple[str, VerifierKey | None]:
    return open_note(note, keys, verify_ed25519) if keys else (note_text(note), None)


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "replace")


class _LogCheck:
    """One log. What is written later is read later, so that a log may be checked while it grows."""

    def __init__(
        self, log: LogDirectory, keys: Sequence[VerifierKey], alone: bool, tally: _Tally
    ) -> None:
        self.log = log
        self._keys = keys
        self._tally = tally
        self._copy = _text(log.checkpoint) if log.checkpoint.exists() else ""
        text = _text(log.checkpoints) if log.checkpoints.exists() else ""
        self._notes, self._rest = split_notes(text)
        # A copy of one log may stand under any name; its own stands in its checkpoints' origin.
        claimed = text.partition("\n")[0].rpartition("/")[2]
        self.name = claimed or log.name if alone else log.name
        self._head = b'{"v":%d,"log":"%b","seq":' % (VERSION, self.name.encode())
        self._tree = CompactRange()
        self._believed = 0
        self._decisions: set[str] = set()
        self._open_calls: set[str] = set()

    def run(self, held: list[Checkpoint]) -> None:
        """Raise _Bad at the first thing that is wrong."""
        own = self._checkpoints()
        expected: dict[int, set[bytes]] = {}
        for checkpoint in own + held:
            expected.setdefault(checkpoint.size, set()).add(checkpoint.root)
        for line, leaf in self._lines():
            self._line(line, leaf)
            self._compare(expected)
        size = self._tree.size
        if expected and max(expected) > size:
            self._fail(size, f"records are missing: a checkpoint covers {max(expected)}")
        if size and not own:
            self._fail(0, "records but no checkpoint")
        tally = self._tally
        tally.own += own[-1].size if own else 0
        tally.held += max((checkpoint.size for checkpoint in held), default=0)
        if not held:
            # An empty log too: its files may have been emptied, or rolled back to its first checkpoint.
            tally.unheld.append(self.name)
        if not own:
            tally.notes.append(f"{self.name}: it holds no checkpoint")
        tally.unknown += len(self._open_calls)

    def _checkpoints(self) -> list[Checkpoint]:
        found: list[Checkpoint] = []
        for note in self._notes:
            size = found[-1].size if found else 0
            try:
                text, key = _open(note, self._keys)
                checkpoint = parse_checkpoint(text)
            except NoteInvalid as error:
                self._fail(size, f"checkpoint {len(found)} does not hold: {error}")
            origin = f"{key.name}/{self.name}" if key else checkpoint.origin
            if checkpoint.origin != origin or checkpoint.log != self.name:
                self._fail(size, f"checkpoint {len(found)} is of another log")
            if found and checkpoint.size <= size:
                self._fail(size, f"checkpoint {len(found)} does not grow")
            found.append(checkpoint)
            self._tally.checkpoints += 1
        if self._copy and self._copy not in self._notes:
            self._fail(found[-1].size if found else 0, "the last checkpoint's copy differs")
        if self._rest:
            self._tally.notes.append(f"{self.name}: the last checkpoint was cut short")
        return found

    def _lines(self) -> Iterator[tuple[bytes, bytes | None]]:
        """Each line without LF and the leaf hash kept beside it."""
        segments = self.log.segments()
        for number in segments:
            is_last = number == segments[-1]
            path = self.log.leaves(number)
            leaves = path.read_bytes() if path.exists() else b""
            count = 0
            with self.log.segment(number).open("rb") as file:
                for line in file:
                    if not line.endswith(b"\n"):
                        if not is_last:
                            self._fail(self._tree.size, "the line is cut short")
                        self._tally.notes.append(f"{self.name}: the last line was cut short")
                        break
                    leaf = leaves[count * HASH_SIZE : (count + 1) * HASH_SIZE]
                    yield line[:-1], leaf if len(leaf) == HASH_SIZE else None
                    count += 1
            if len(leaves) // HASH_SIZE > count:
                self._fail(self._tree.size, "a record is missing: its leaf hash is there")

    def _line(self, line: bytes, leaf: bytes | None) -> None:
        seq = self._tree.size
        record = _parse(line)
        id = record.get("id") if record else None
        id = id if isinstance(id, str) else None
        if not line.startswith(self._head + b"%d," % seq):
            self._fail(seq, "the line is not the next record of this log", id)
        if record is None:
            self._fail(seq, "the line is no canonical JSON object", id)
        digest = leaf_hash(line)
        if leaf is not None and leaf != digest:
            self._fail(seq, "the record differs from its leaf hash", id)
        self._tree.append(digest)
        self._pair(seq, record, id)
        self._tally.records += 1

    def _pair(self, seq: int, record: dict[str, Any], id: str | None) -> None:
        event = record.get("event_id")
        if not isinstance(event, str):
            self._fail(seq, "the record has no event_id", id)
        if record.get("phase") == "decision":
            self._decisions.add(event)
            allowed = record.get("decision") == "allow" and record.get("server") is not None
            if allowed and record.get("method") not in _WITHOUT_OUTCOME:
                self._open_calls.add(event)
        elif record.get("phase") == "outcome":
            if event not in self._decisions:
                self._fail(seq, "an outcome without a decision", id)
            self._open_calls.discard(event)

    def _compare(self, expected: dict[int, set[bytes]]) -> None:
        size = self._tree.size
        roots = expected.get(size)
        if roots is None:
            return
        if roots != {self._tree.root()}:
            self._fail(
                self._believed,
                f"a record from here to {size - 1} is not what the checkpoint of {size} covers",
            )
        self._believed = size

    def _fail(self, seq: int, reason: str, id: str | None = None) -> NoReturn:
        raise _Bad(self.name, seq, reason, id)


def _parse(line: bytes) -> dict[str, Any] | None:
    """The object a line stands for, or None where writing it again would not give these bytes."""
    try:
        value = json.loads(line)
        again = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return value if isinstance(value, dict) and again.encode() == line else None
    except (ValueError, RecursionError):
        return None
