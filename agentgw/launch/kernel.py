"""Linux system calls that Python has no name for."""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_NO_NEW_PRIVS = 38
_CAPABILITIES_V3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
if _libc is not None:
    _libc.syscall.restype = ctypes.c_long


def syscall(number: int, *arguments: object) -> int:
    """The result of a system call; integers go as unsigned longs. Raises OSError."""
    if _libc is None:
        raise OSError(38, os.strerror(38))
    words = [ctypes.c_ulong(it) if isinstance(it, int) else it for it in arguments]
    result = int(_libc.syscall(ctypes.c_long(number), *words))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def no_new_privileges() -> None:
    """Nothing this process executes gains rights by it: no setuid, no file capabilities. Raises OSError."""
    _call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def drop_capabilities() -> None:
    """Give up every capability, ambient ones with them. Raises OSError."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_V3, 0)
    _call("capset", ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)()))


def _call(name: str, *arguments: object) -> None:
    if _libc is None:
        raise OSError(38, os.strerror(38))
    words = [ctypes.c_ulong(it) if isinstance(it, int) else it for it in arguments]
    if getattr(_libc, name)(*words) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
