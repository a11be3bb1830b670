"""Sockets that this process and its children may not make: a seccomp filter.

Landlock knows TCP ports only. Without this, a server without network could still send datagrams, and every
server could speak to whatever listens on a unix socket of its user's. Source: Linux,
Documentation/userspace-api/seccomp_filter.rst, and the numbers of the two machines below.
"""

from __future__ import annotations

import ctypes
import os
import struct

from agentgw.launch.kernel import syscall

_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_ALLOW, _KILL, _EACCES = 0x7FFF0000, 0x80000000, 0x00050000 | 13
_ARCHITECTURE, _NUMBER, _FIRST, _SECOND = 4, 0, 16, 24
"""Where in what the filter sees these stand (struct seccomp_data, little endian)."""

_X32 = 0x40000000
_IO_URING_SETUP = 425
"""A ring makes sockets, too."""

_INTERNET = (2, 10, 16)
"""IPv4, IPv6, and netlink, which asks for addresses."""

_SOCK_STREAM, _TYPE_MASK = 1, 0xF
_SET_MODE_FILTER = 1

MACHINES = {
    "x86_64": (0xC000003E, 317, 41, 53),
    "aarch64": (0xC00000B7, 277, 198, 199),
}
"""Audit architecture, and the numbers of seccomp, socket and socketpair."""


_Step = tuple[str, int, int, str, str]
"""A label or none, operation, operand, and where to go on if true and if false: a label, or empty: next."""


class _Program(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def refuse_sockets(*, network: bool) -> None:
    """No socket at all, or with `network` those of the internet only; pairs of streams stay.

    Must come after no_new_privileges. Raises OSError, also on a machine whose numbers are not known.
    """
    machine = os.uname().machine
    if machine not in MACHINES:
        raise OSError(38, f"no filter for sockets is known on {machine}")
    code = _assembled(_steps(machine, network))
    program = _Program(len(code) // 8, code)
    syscall(MACHINES[machine][1], _SET_MODE_FILTER, 0, ctypes.byref(program))


def _steps(machine: str, network: bool) -> list[_Step]:
    architecture, _, socket, pair = MACHINES[machine]
    families = _INTERNET if network else ()
    return [
        ("", _LOAD, _ARCHITECTURE, "", ""),
        ("", _EQUAL, architecture, "", "kill"),
        ("", _LOAD, _NUMBER, "", ""),
        ("", _AT_LEAST, _X32, "refuse", ""),
        ("", _EQUAL, _IO_URING_SETUP, "refuse", ""),
        ("", _EQUAL, pair, "pair", ""),
        ("", _EQUAL, socket, "", "allow"),
        ("", _LOAD, _FIRST, "", ""),
        *(("", _EQUAL, family, "allow", "") for family in families),
        ("refuse", _RETURN, _EACCES, "", ""),
        ("pair", _LOAD, _SECOND, "", ""),
        ("", _AND, _TYPE_MASK, "", ""),
        # One of datagrams could still be sent to any unix socket by name.
        ("", _EQUAL, _SOCK_STREAM, "", "no pair"),
        ("allow", _RETURN, _ALLOW, "", ""),
        ("no pair", _RETURN, _EACCES, "", ""),
        ("kill", _RETURN, _KILL, "", ""),
    ]


def _assembled(steps: list[_Step]) -> bytes:
    places = {label: index for index, (label, *_) in enumerate(steps) if label}
    return b"".join(
        struct.pack(
            "=HBBI",
            operation,
            places[if_true] - index - 1 if if_true else 0,
            places[if_false] - index - 1 if if_false else 0,
            operand,
        )
        for index, (_, operation, operand, if_true, if_false) in enumerate(steps)
    )
