"""The file operations a log stands on, as a seam, and the real ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol


class Files(Protocol):
    """What the writer asks of the operating system. Every method raises OSError."""

    def open(self, path: Path, flags: int) -> int:
        """A file descriptor; a file made by it has mode 0600."""
        ...

    def write(self, fd: int, data: bytes) -> int:
        """Write some of `data`, return how many bytes."""
        ...

    def fdatasync(self, fd: int) -> None:
        """Return once the file's data is durable."""
        ...

    def truncate(self, fd: int, size: int) -> None:
        """Cut the file to `size` bytes."""
        ...

    def replace(self, source: Path, target: Path) -> None:
        """Rename `source` over `target`."""
        ...

    def sync_directory(self, path: Path) -> None:
        """Make the names in a directory durable."""
        ...


class OsFiles:
    """The operating system's own."""

    def open(self, path: Path, flags: int) -> int:
        return os.open(path, flags | os.O_CLOEXEC, 0o600)

    def write(self, fd: int, data: bytes) -> int:
        return os.write(fd, data)

    def fdatasync(self, fd: int) -> None:
        # macOS has no fdatasync.
        getattr(os, "fdatasync", os.fsync)(fd)

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def replace(self, source: Path, target: Path) -> None:
        os.replace(source, target)

    def sync_directory(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
