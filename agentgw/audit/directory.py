"""Where a log's files stand, and how its lines are read back.

`{root}/manifest` lists the logs; `{root}/{log}/` holds one log of one writer:
`00000001.jsonl` (a segment: one record per line), `00000001.leaves` (32 bytes per line),
`00000001.{offset}.torn` (bytes moved aside), `checkpoints` (all notes), `checkpoint` (the last one).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agentgw.core.merkle import HASH_SIZE, leaf_hash
from agentgw.core.record import VERSION

LOG_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_SEGMENT = re.compile(r"[0-9]{8}\.jsonl")


@dataclass(frozen=True, slots=True)
class LogDirectory:
    """The files of one log; the directory's name is the log's name."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def segment(self, number: int) -> Path:
        return self.path / f"{number:08d}.jsonl"

    def leaves(self, number: int) -> Path:
        return self.path / f"{number:08d}.leaves"

    def torn(self, number: int, offset: int) -> Path:
        return self.path / f"{number:08d}.{offset}.torn"

    def segments(self) -> list[int]:
        """The numbers of the segments there are, in order."""
        names = (path.name for path in self.path.iterdir())
        return sorted(int(name[:8]) for name in names if _SEGMENT.fullmatch(name))

    def head(self) -> bytes:
        """How every line of this log begins, up to its seq."""
        return b'{"v":%d,"log":"%b","seq":' % (VERSION, self.name.encode())


@dataclass(frozen=True, slots=True)
class Scan:
    """What a segment holds: the leaf hash of each whole line, how many bytes those lines take, and
    how many bytes of something else follow."""

    leaves: list[bytes]
    good: int
    torn: int


def scan_segment(log: LogDirectory, number: int, first: int, limit: int | None = None) -> Scan:
    """Read segment `number`, whose first line has seq `first`, up to its first line that is none.

    `limit` is a number of bytes after which everything counts as torn. A missing file is empty.
    Raises OSError.
    """
    path = log.segment(number)
    if not path.exists():
        return Scan([], 0, 0)
    size = path.stat().st_size
    leaves: list[bytes] = []
    good = 0
    with path.open("rb") as file:
        for line in file:
            end = good + len(line)
            if (limit is not None and end > limit) or not is_line(
                line, log.head(), first + len(leaves)
            ):
                break
            leaves.append(leaf_hash(line[:-1]))
            good = end
    return Scan(leaves, good, size - good)


def is_line(line: bytes, head: bytes, seq: int) -> bool:
    """Whether `line` is a whole record of the log that begins its lines with `head`, with that seq."""
    if not line.endswith(b"}\n") or not line.startswith(head + b"%d," % seq):
        return False
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def read_leaves(path: Path) -> list[bytes]:
    """The whole leaf hashes of a leaves file; none where it is missing. Raises OSError."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    whole = len(data) - len(data) % HASH_SIZE
    return [data[at : at + HASH_SIZE] for at in range(0, whole, HASH_SIZE)]


def find_logs(directory: Path) -> list[LogDirectory]:
    """The logs under `directory`: itself where it is one log's directory, else its subdirectories.

    One log's directory has neither a manifest nor logs below it: a log's files copied into the root
    must not hide the others. Sorted by name; empty where there is none. Raises OSError.
    """
    here = LogDirectory(directory.resolve())
    folders = sorted(path for path in here.path.iterdir() if path.is_dir())
    below = [LogDirectory(path) for path in folders if LOG_NAME.fullmatch(path.name)]
    is_root = below or (here.path / "manifest").exists()
    if not is_root and (here.segments() or here.checkpoints.exists()):
        return [here]
    return below


def read_lines(log: LogDirectory) -> Iterator[bytes]:
    """The whole lines of a log in order, without LF; a cut last line is left out. Raises OSError."""
    for number in log.segments():
        with log.segment(number).open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield line[:-1]
