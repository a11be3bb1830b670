"""Files and TCP ports beyond what is named, closed to this process and its children by Landlock.

Source: Linux, Documentation/userspace-api/landlock.rst.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress

from agentgw.launch.kernel import syscall

NEEDED_ABI = 3
"""The first (Linux 6.2) that keeps a file from being cut to nothing, which needs no opening for writing."""

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_CHAR, _MAKE_BLOCK, _TRUNCATE, _IOCTL_DEV = 1 << 6, 1 << 11, 1 << 14, 1 << 15
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_ALL = (1 << 15) - 1
"""The rights over files up to ABI 3."""

_OF_A_FILE = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_TCP = 1 << 0 | 1 << 1
_SCOPES = 1 << 0 | 1 << 1
"""Abstract unix sockets, and signals: none to processes outside."""

_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_ALWAYS_HIDDEN = ("/tmp", "/run", "/dev")  # noqa: S108 - hidden, not used


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def abi() -> int:
    """The version of Landlock this kernel has; 0 where it has none, or was started without."""
    try:
        return syscall(_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    except OSError:
        return 0


def restrict(
    hidden: Iterable[str], read: Iterable[str], write: Iterable[str], *, network: bool
) -> None:
    """Leave this process the file system to read, less `hidden`; `read` and `write` come back, `write` whole.

    With `network` false, no TCP port either, from ABI 4 on. Signals and abstract unix sockets stay among
    its own from ABI 6 on. Must come after no_new_privileges. Raises OSError, naming what it could not open.
    """
    version = abi()
    if version < NEEDED_ABI:
        raise OSError(38, f"this kernel has Landlock ABI {version}, {NEEDED_ABI} is needed")
    files = _ALL | (_IOCTL_DEV if version >= 5 else 0)
    ruleset = _Ruleset(
        files,
        _TCP if version >= 4 and not network else 0,
        _SCOPES if version >= 6 else 0,
    )
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    rules = syscall(_CREATE_RULESET, ctypes.byref(ruleset), size, 0)
    try:
        for path in visible("/", {os.path.realpath(it) for it in (*_ALWAYS_HIDDEN, *hidden)}):
            with suppress(FileNotFoundError):  # gone since it was listed
                _allow(rules, path, _READ)
        for path in read:
            _allow(rules, path, _READ)
        for path in write:
            _allow(rules, path, files & ~(_MAKE_CHAR | _MAKE_BLOCK))
        for path in _DEVICES:
            _allow(rules, path, _READ_FILE | _WRITE_FILE | _TRUNCATE)
        syscall(_RESTRICT_SELF, rules, 0)
    finally:
        os.close(rules)


def visible(folder: str, hidden: set[str]) -> Iterator[str]:
    """The fewest paths that cover what lies below `folder`, less what lies below one that is `hidden`.

    Landlock can only allow: a folder that holds something hidden is taken entry by entry, as they are now.
    """
    if folder in hidden:
        return
    start = folder.rstrip("/") + "/"
    if not any(path.startswith(start) for path in hidden):
        yield folder
        return
    try:
        with os.scandir(folder) as entries:
            # What a link leads to is covered, or hidden, where it lies.
            names = [entry.name for entry in entries if not entry.is_symlink()]
    except OSError:
        return
    for name in sorted(names):
        yield from visible(start + name, hidden)


def _allow(rules: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except PermissionError:
        return  # what this user cannot reach needs no rule
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            rights &= _OF_A_FILE
        rule = _PathBeneath(rights, place)
        syscall(_ADD_RULE, rules, _RULE_PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(place)
