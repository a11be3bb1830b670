"""The files under `state_dir/keys`: one per purpose, for their user only, replaced whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentgw.errors import Unavailable
from agentgw.sts.wrapping import Wrapping, WrappingKeyError, is_sealed, sealed_under

PURPOSES = ("tokens", "checkpoints", "sessions", "dpop", "vault", "cookies", "client")
"""What keys are for; each has a file and keys of its own."""

SIZE_LIMIT = 1024 * 1024

Stamp = tuple[int, int, int]
"""What changes when a file does."""


class KeyFiles:
    """Reads and writes key files; several processes may do so at once under `locked`.

    Files are sealed under `wrapping`, or lie there plain (0600) where there is none.
    A file that others may read, or that is no regular file, raises Unavailable; one sealed under another
    key WrappingKeyError; what the system refuses raises OSError, a damaged file ValueError or KeyError.
    """

    def __init__(self, folder: Path, wrapping: Wrapping | None = None) -> None:
        self.folder = folder
        self._wrapping = wrapping

    def prepare(self) -> None:
        """Make the folder, for our eyes only."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.chmod(0o700)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process that locks out, for as long as this lasts."""
        handle = os.open(self.folder / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def purposes(self) -> list[str]:
        """The purposes that have a file, in our order."""
        # lexists: a link that leads nowhere is something, too.
        return [purpose for purpose in PURPOSES if os.path.lexists(self._file(purpose))]

    def make(self, purpose: str, content: Callable[[], dict[str, Any]]) -> None:
        """Write the file of `purpose` where there is none; whatever stands there stays."""
        if purpose not in self.purposes():
            self.write(purpose, content())

    def settle(self, anew: bool = False) -> list[str]:
        """Seal what is not sealed under the current wrapping key, or everything `anew`.

        Returns the purposes whose files were written. All files are opened before one is written.
        """
        found = {purpose: self.read(purpose) for purpose in self.purposes()}
        if self._wrapping is None:
            return []
        current = self._wrapping.current.kid
        stale = [purpose for purpose in found if anew or self.sealed_under(purpose) != current]
        for purpose in stale:
            self.write(purpose, found[purpose])
        return stale

    def use(self, wrapping: Wrapping | None) -> None:
        """Seal under `wrapping` from now on, which must open every file there is."""
        other = KeyFiles(self.folder, wrapping)
        other.settle()
        self._wrapping = wrapping

    def sealed_under(self, purpose: str) -> str | None:
        """The `kid` of the wrapping key that the file of `purpose` is sealed under; None: it is plain."""
        state = self._state(purpose)
        return sealed_under(state) if is_sealed(state) else None

    def read(self, purpose: str) -> dict[str, Any]:
        """What the file of `purpose` holds."""
        state = self._state(purpose)
        if not is_sealed(state):
            return state
        file = self._file(purpose).name
        if self._wrapping is None:
            raise WrappingKeyError(
                f"the key file {file} is sealed under the wrapping key {sealed_under(state)}: "
                "say in keys.wrap where that is"
            )
        return _object(self._wrapping.open(state, purpose, file))

    def write(self, purpose: str, state: dict[str, Any]) -> None:
        """Replace the file whole: a reader sees the old keys or the new, never a part."""
        file = self._file(purpose)
        content = json.dumps(state, indent=1).encode()
        if self._wrapping is not None:
            jwe = self._wrapping.seal(content, purpose, file.name)
            content = json.dumps(jwe, indent=1).encode()
        fresh = file.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        handle = os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as out:
            _keep_owner(file, out.fileno())
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        fresh.replace(file)
        folder = os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def stamp(self, purpose: str) -> Stamp:
        """What changes when the file of `purpose` does."""
        status = self._file(purpose).lstat()
        return status.st_mtime_ns, status.st_ino, status.st_size

    def _state(self, purpose: str) -> dict[str, Any]:
        return _object(self._bytes(purpose))

    def _file(self, purpose: str) -> Path:
        return self.folder / f"{purpose}.json"

    def _bytes(self, purpose: str) -> bytes:
        file = self._file(purpose)
        try:
            handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise Unavailable(
                f"the key file {file.name} is a symbolic link: put the file itself in its place"
            ) from None
        with os.fdopen(handle, "rb") as found:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise Unavailable(f"the key file {file.name} is no regular file")
            if status.st_mode & 0o077:
                raise Unavailable(
                    f"the key file {file.name} may be read by others: chmod 600 it, and replace the key"
                )
            data = found.read(SIZE_LIMIT + 1)
        if len(data) > SIZE_LIMIT:
            raise ValueError(purpose)
        return data


@contextmanager
def told(purpose: str) -> Iterator[None]:
    """Turn what goes wrong with key files into Unavailable, in words that quote none of them."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise Unavailable(f"cannot {purpose}: {error.strerror}{where}") from error
    except (ValueError, KeyError, TypeError) as error:
        # The parser's own words could quote the file.
        raise Unavailable(
            f"cannot {purpose}: a key file is damaged; restore it from a backup"
        ) from (error if isinstance(error, KeyError) else None)


def _object(data: bytes) -> dict[str, Any]:
    state = json.loads(data)
    if not isinstance(state, dict):
        raise ValueError("no object")
    return state


def _keep_owner(file: Path, handle: int) -> None:
    """Give a file that replaces another's to that other: root rotates, the gateway must read it."""
    try:
        before = file.lstat()
    except FileNotFoundError:
        return
    if before.st_uid != os.geteuid():
        os.fchown(handle, before.st_uid, before.st_gid)
