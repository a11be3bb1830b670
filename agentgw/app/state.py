"""The state directory: who may enter it, and what lies in it for others to find."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def open_state(state: Path) -> None:
    """Make the directory, ours alone; one that others may enter is closed to them. Raises OSError."""
    os.makedirs(state, mode=0o700, exist_ok=True)
    found = state.stat()
    # A sticky directory is shared on purpose (/tmp): closing it would shut others out.
    others = found.st_mode & 0o077 and not found.st_mode & stat.S_ISVTX
    if others and found.st_uid == os.geteuid():
        state.chmod(0o700)


def publish_vkey(path: Path, vkey: str) -> None:
    """Put the public key of the checkpoints where an operator finds it, to be kept elsewhere."""
    text = f"{vkey}\n"
    if not path.exists() or path.read_text("utf-8") != text:
        path.write_text(text, "utf-8")
