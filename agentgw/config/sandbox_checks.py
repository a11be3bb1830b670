"""Whether this machine can shut a stdio server in as `servers.*.sandbox` says."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from agentgw.config.servers import Server
from agentgw.launch import landlock, sockets

Found = tuple[str, str, str]
"""The field, what is wrong with it, and what would mend it."""

_NEEDED = {5: "CAP_KILL", 6: "CAP_SETGID", 7: "CAP_SETUID"}
"""Capabilities by number: to become another user, and to end what runs as one."""


@dataclass(frozen=True, slots=True)
class Account:
    """A user of this machine."""

    uid: int
    gid: int
    home: Path


def account(user: str) -> Account | None:
    """The user of that name or number, None where there is none."""
    import pwd  # not everywhere

    try:
        found = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except (KeyError, OverflowError):
        return None
    return Account(found.pw_uid, found.pw_gid, Path(found.pw_dir))


def check_sandbox(
    name: str, server: Server, config_file: Path, env: Mapping[str, str]
) -> Iterator[Found]:
    """What keeps server `name` from being shut in here as the file says; nothing for `none`."""
    match server.sandbox.kind:
        case "bwrap":
            if shutil.which("bwrap", path=env.get("PATH", os.defpath)) is None:
                message = f"the program bwrap that shuts server {name} in is not found"
                yield "sandbox", message, "install it (Debian, Ubuntu: apt install bubblewrap)"
        case "landlock":
            yield from _check_landlock(name)
        case "uid":
            yield from _check_user(name, server, config_file)


def _check_landlock(name: str) -> Iterator[Found]:
    other = "use another sandbox, or Linux 6.2 or later with landlock among its security modules"
    found = landlock.abi()
    if found == 0:
        message = f"this kernel has no Landlock, or was started without, to shut server {name} in"
        yield "sandbox", message, other
    elif found < landlock.NEEDED_ABI:
        message = f"this kernel's Landlock (ABI {found}) is too old to shut server {name} in"
        yield "sandbox", message, other
    elif os.uname().machine not in sockets.MACHINES:
        machines = " or ".join(sockets.MACHINES)
        yield "sandbox", f"sandbox landlock of server {name} needs {machines}", "use another"


def _check_user(name: str, server: Server, config_file: Path) -> Iterator[Found]:
    user = server.sandbox.user or ""
    other = account(user)
    lacking = _lacking()
    if other is None:
        yield "sandbox", f"there is no user {user} to run server {name} as", f"useradd -r -m {user}"
    elif other.uid in (0, os.geteuid()):
        whose = "root" if other.uid == 0 else "the gateway's own user"
        yield "sandbox", f"user {user} of server {name} is {whose}", "make a user of its own for it"
    elif lacking:
        message = f"the gateway cannot run server {name} as {user}: it lacks {', '.join(lacking)}"
        yield "sandbox", message, "start it as root or with these, or use another sandbox"
    else:
        folder = server.cwd or other.home
        if not _is_own(folder, other):
            message = f"the folder {folder} in which server {name} would run is not {user}'s own"
            hint = f"name one with cwd, made by: install -d -m 700 -o {user} FOLDER"
            yield "cwd", message, hint
        if may_read(config_file, other):
            message = f"user {user} of server {name} may read this file"
            yield "sandbox", message, f"chmod go-r {config_file}"


def _lacking() -> list[str]:
    """The capabilities this process lacks to run others as other users."""
    try:
        lines = Path("/proc/self/status").read_text("ascii").splitlines()
    except OSError:
        return [] if os.geteuid() == 0 else list(_NEEDED.values())
    held = next((int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")), 0)
    return [name for number, name in _NEEDED.items() if not held >> number & 1]


def _is_own(folder: Path, who: Account) -> bool:
    try:
        found = folder.stat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == who.uid


def may_read(path: Path, who: Account) -> bool:
    """Whether that user, in no group but its own, gets to the content of `path` by its permissions."""
    resolved = path.resolve()
    try:
        ways = all(_may(folder, who, 1) for folder in resolved.parents)
        return ways and _may(resolved, who, 4)
    except OSError:
        return True  # what cannot be looked at counts as open


def _may(path: Path, who: Account, right: int) -> bool:
    found = path.stat()
    shift = 6 if found.st_uid == who.uid else 3 if found.st_gid == who.gid else 0
    return bool(found.st_mode >> shift & right)
