"""The signed list of the logs one gateway writes, so that none can vanish unseen."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from agentgw.audit.files import Files
from agentgw.audit.keys import NoteSigner, verify_ed25519
from agentgw.core.checkpoint import (
    NoteInvalid,
    UnknownSigner,
    format_manifest,
    note_text,
    open_note,
    parse_manifest,
)
from agentgw.errors import ConfigError


def enlist(root: Path, log: str, signer: NoteSigner, files: Files) -> None:
    """Add `log` to `{root}/manifest` and sign it with `signer`, under a lock all writers take.

    Raises ConfigError where the manifest was altered, OSError where it cannot be written.
    """
    lock = files.open(root / "manifest.lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        listed, ours = _read(root / "manifest", signer)
        if log in listed and ours:
            return
        note = signer.sign(format_manifest({*listed, log}))
        replace_file(root / "manifest", note.encode(), files)
    finally:
        os.close(lock)


def replace_file(path: Path, data: bytes, files: Files, durable: bool = True) -> None:
    """Put `data` at `path` so that a reader sees the old file or the new one. Raises OSError.

    `durable` costs two syncs; without them a power loss may leave either, or an empty file.
    """
    draft = path.with_name(path.name + ".tmp")
    fd = files.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        write_all(fd, data, files)
        if durable:
            files.fdatasync(fd)
    finally:
        os.close(fd)
    files.replace(draft, path)
    if durable:
        files.sync_directory(path.parent)


def write_all(fd: int, data: bytes, files: Files) -> None:
    """Write all of `data`. Raises OSError, some of it then being written."""
    written = files.write(fd, data)
    while written < len(data):
        data = data[written:]
        written = files.write(fd, data)


def _read(path: Path, signer: NoteSigner) -> tuple[tuple[str, ...], bool]:
    """The logs listed, and whether `signer` signed the list (not so after its key was rotated)."""
    try:
        note = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return (), False
    try:
        try:
            return parse_manifest(open_note(note, [signer.key], verify_ed25519)[0]), True
        except UnknownSigner:
            return parse_manifest(note_text(note)), False
    except NoteInvalid as error:
        raise ConfigError(
            str(path), 0, f"the list of logs was altered: {error}",
            "run `agentgw audit verify`; move the log directory away to begin anew",
        ) from None  # fmt: skip
