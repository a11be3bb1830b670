"""The one writer of a log: whole batches, durable or refused. Blocking; it lives in a thread of its own.

Order of a batch: lines, leaves, fdatasync of the lines; only then does the tree grow. So a checkpoint
never covers a line that is not durable, and what stands behind the tree after a failure can be cut.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import orjson

from agentgw.audit.directory import LOG_NAME, LogDirectory, Scan, read_leaves, scan_segment
from agentgw.audit.files import Files
from agentgw.audit.keys import NoteSigner
from agentgw.audit.manifest import enlist, replace_file, write_all
from agentgw.core.checkpoint import (
    Checkpoint,
    NoteInvalid,
    note_text,
    parse_checkpoint,
    split_notes,
)
from agentgw.core.merkle import CompactRange
from agentgw.core.record import log_event, uuid7
from agentgw.errors import ConfigError

SEGMENT_BYTES = 64 * 1024 * 1024


class LogWriter:
    """Appends to `{root}/{name}/`. Call `open` once; after any OSError call `recover` until it returns."""

    def __init__(
        self,
        root: Path,
        name: str,
        signer: NoteSigner,
        files: Files,
        clock: Callable[[], float],
        random: Callable[[int], bytes],
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        if not LOG_NAME.fullmatch(name):
            raise ConfigError(
                str(root), 0, f"{name!r} is no log name", "use a-z, 0-9, '.', '_', '-'"
            )
        self.log = LogDirectory(root / name)
        self._root = root
        self._signer = signer
        self._files = files
        self._clock = clock
        self._random = random
        self._segment_bytes = segment_bytes
        self._head = self.log.head()
        self._lock: int | None = None
        self._fds: list[int] = []
        self._tree = CompactRange()
        self._start = CompactRange()  # the tree as it was before the open segment
        self._segment = 1
        self._bytes = 0
        self._checkpointed = -1
        self._opened = False
        self._torn: dict[str, int] = {}

    @property
    def size(self) -> int:
        """How many records are durable; the seq of the next one."""
        return self._tree.size

    @property
    def uncovered(self) -> int:
        """How many records no checkpoint covers yet."""
        return self._tree.size - self._checkpointed

    def open(self) -> None:
        """Take the directory, move a torn tail aside and continue. Call again after OSError.

        Raises ConfigError where another process writes this log or it contradicts its last checkpoint.
        """
        for directory in (self._root, self.log.path):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._take_lock()
        enlist(self._root, self.log.name, self._signer, self._files)
        last = self._read_checkpoints()
        self._load(last)
        self._open_files()
        self._report_torn("a line was cut short before the last start")
        self.checkpoint()
        self._opened = True

    def commit(self, bodies: list[bytes]) -> int:
        """Make records durable; each is a JSON object's bytes. Returns the first one's seq.

        Raises OSError: then none of them counts, and `recover` must be called before the next.
        """
        first = self._tree.size
        head = self._head
        lines = [b"%b%d,%b" % (head, seq, body[1:]) for seq, body in enumerate(bodies, first)]
        leaves = [sha256(b"\x00" + line).digest() for line in lines]
        lines.append(b"")
        data = b"\n".join(lines)
        if self._bytes and self._bytes + len(data) > self._segment_bytes:
            self._next_segment()
        segment, leaves_file, _ = self._fds
        write_all(segment, data, self._files)
        write_all(leaves_file, b"".join(leaves), self._files)
        self._files.fdatasync(segment)
        self._bytes += len(data)
        self._tree.extend(leaves)
        return first

    def checkpoint(self) -> None:
        """Sign the tree as it is, unless a checkpoint of this size exists. Raises OSError."""
        size = self._tree.size
        if size == self._checkpointed:
            return
        origin = f"{self._signer.key.name}/{self.log.name}"
        note = self._signer.sign(str(Checkpoint(origin, size, self._tree.root())))
        write_all(self._fds[2], f"{note}\n".encode(), self._files)
        self._files.fdatasync(self._fds[2])
        self._checkpointed = size
        # Not synced: the copy is made again from `checkpoints` on the next start.
        replace_file(self.log.checkpoint, note.encode(), self._files, durable=False)

    def recover(self, reason: str) -> None:
        """After an OSError: cut what never became durable, and go on in a new segment.

        Raises OSError while the disk still refuses, ConfigError where the old segment has changed.
        """
        self._close_files()
        if not self._opened:
            self.open()
            return
        scan = scan_segment(self.log, self._segment, self._start.size, self._bytes)
        proven = self._start.copy()
        proven.extend(scan.leaves)
        if scan.good != self._bytes or proven.root() != self._tree.root():
            raise self._altered("durable records of the open segment have changed")
        self._cut(scan)
        self._read_checkpoints()
        self._begin_segment(self._segment + 1 if self._bytes else self._segment)
        self._open_files()
        self._report_torn(reason, always=True)
        self.checkpoint()

    def close(self) -> None:
        """Give the directory free."""
        self._close_files()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _take_lock(self) -> None:
        if self._lock is not None:
            return
        lock = self._files.open(self.log.path / "lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise ConfigError(
                str(self.log.path), 0, "another process writes this log",
                "stop it, or give this one its own state_dir",
            ) from None  # fmt: skip
        self._lock = lock

    def _read_checkpoints(self) -> Checkpoint | None:
        """The last whole checkpoint; a cut one behind it is taken away. Raises ConfigError, OSError."""
        try:
            text = self.log.checkpoints.read_bytes().decode("utf-8", "surrogateescape")
        except FileNotFoundError:
            return None
        notes, rest = split_notes(text)
        if rest:
            kept = text.removesuffix(rest).encode("utf-8", "surrogateescape")
            self._truncate(self.log.checkpoints, len(kept))
        if not notes:
            return None
        try:
            last = parse_checkpoint(note_text(notes[-1]))
        except NoteInvalid as error:
            raise self._altered(f"its last checkpoint is malformed: {error}") from None
        self._checkpointed = last.size
        with suppress(FileNotFoundError):
            if self.log.checkpoint.read_bytes().decode("utf-8", "replace") == notes[-1]:
                return last
        replace_file(self.log.checkpoint, notes[-1].encode(), self._files, durable=False)
        return last

    def _load(self, last: Checkpoint | None) -> None:
        """Build the tree from the leaves of closed segments and the lines of the last one."""
        numbers = self.log.segments()
        self._start = CompactRange()
        leaves: list[bytes] = []
        for number in numbers[:-1]:
            leaves += read_leaves(self.log.leaves(number))
        covered = last.size if last else 0
        self._start.extend(leaves)
        scan = None
        if numbers:
            self._segment = numbers[-1]
            scan = scan_segment(self.log, self._segment, len(leaves))
            leaves += scan.leaves
        self._tree = CompactRange(leaves[:covered])
        if last and (len(leaves) < covered or self._tree.root() != last.root):
            raise self._altered("it does not match its last checkpoint")
        self._tree.extend(leaves[covered:])
        if scan:
            self._bytes = scan.good
            self._cut(scan)
        else:
            self._begin_segment(1)

    def _cut(self, scan: Scan) -> None:
        """Move what stands behind the good lines of the segment aside, and set its leaves right."""
        if scan.torn:
            path = self.log.segment(self._segment)
            aside = self.log.torn(self._segment, scan.good)
            replace_file(aside, path.read_bytes()[scan.good :], self._files)
            self._truncate(path, scan.good)
            self._torn[aside.name] = scan.torn
        replace_file(self.log.leaves(self._segment), b"".join(scan.leaves), self._files)

    def _truncate(self, path: Path, size: int) -> None:
        fd = self._files.open(path, os.O_RDWR)
        try:
            self._files.truncate(fd, size)
            self._files.fdatasync(fd)
        finally:
            os.close(fd)

    def _next_segment(self) -> None:
        self._files.fdatasync(self._fds[1])
        self._close_files()
        self._begin_segment(self._segment + 1)
        self._open_files()

    def _begin_segment(self, number: int) -> None:
        for path in (self.log.segment(number), self.log.leaves(number)):
            # A file left empty by a failed attempt is not used again: its error state is unknown.
            path.unlink(missing_ok=True)
            os.close(self._files.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        self._files.sync_directory(self.log.path)
        self._segment = number
        self._start = self._tree.copy()
        self._bytes = 0

    def _open_files(self) -> None:
        self._close_files()
        for path in (
            self.log.segment(self._segment), self.log.leaves(self._segment), self.log.checkpoints,
        ):  # fmt: skip
            self._fds.append(self._files.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND))

    def _close_files(self) -> None:
        while self._fds:
            os.close(self._fds.pop())

    def _report_torn(self, reason: str, always: bool = False) -> None:
        """Record what was moved aside, in the log itself; what cannot be recorded yet is kept."""
        if not self._torn and not always:
            return
        now = self._clock()
        event = log_event(
            id=uuid7(int(now * 1000), self._random(10)),
            now=now,
            method="log/recovered",
            name=self.log.segment(self._segment).name,
            reason=reason,
            torn=[{"file": name, "bytes": size} for name, size in self._torn.items()],
        )
        self.commit([orjson.dumps(event)])
        self._torn.clear()

    def _altered(self, what: str) -> ConfigError:
        return ConfigError(
            str(self.log.path), 0, f"the log was altered: {what}",
            "run `agentgw audit verify`; move the directory away to begin a new log",
        )  # fmt: skip
