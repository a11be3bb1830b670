"""Whether a log ends as its last checkpoint says: what the next start of its writer would check, and the
signature. Cheap, where `verify` reads everything; the past inside closed segments is taken at its leaves'
word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from agentgw.audit.directory import LogDirectory, read_leaves, scan_segment
from agentgw.audit.keys import verify_ed25519
from agentgw.core.checkpoint import NoteInvalid, VerifierKey, open_note, parse_checkpoint
from agentgw.core.merkle import CompactRange


class Ending(NamedTuple):
    """How many records there are, and what is wrong with the end, None where it holds."""

    records: int
    problem: str | None


def check_ending(log: LogDirectory, keys: Sequence[VerifierKey]) -> Ending:
    """Look at the end of `log`, which may be growing. Raises OSError."""
    # Read before the records: what is written later is read later.
    note = log.checkpoint.read_bytes() if log.checkpoint.exists() else None
    leaves: list[bytes] = []
    numbers = log.segments()
    for number in numbers[:-1]:
        leaves += read_leaves(log.leaves(number))
    if numbers:
        leaves += scan_segment(log, numbers[-1], len(leaves)).leaves
    if note is None:
        return Ending(len(leaves), "it holds records but no checkpoint" if leaves else None)
    try:
        last = parse_checkpoint(open_note(note.decode("utf-8", "replace"), keys, verify_ed25519)[0])
    except NoteInvalid as error:
        return Ending(len(leaves), f"its last checkpoint does not hold: {error}")
    if last.log != log.name:
        return Ending(len(leaves), "its last checkpoint is of another log")
    if len(leaves) < last.size:
        missing = f"records are missing: its last checkpoint covers {last.size}"
        return Ending(len(leaves), missing)
    if CompactRange(leaves[: last.size]).root() != last.root:
        return Ending(len(leaves), "its records are not those that its last checkpoint covers")
    return Ending(len(leaves), None)
