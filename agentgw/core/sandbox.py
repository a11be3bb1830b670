"""What a stdio tool server may see of the machine: the command line that shuts it in.

By bubblewrap (`bwrap`): namespaces of its own for processes, IPC, host name and, unless it may have one, the
network; the file system read-only, without the user's home, the gateway's state and configuration, `/run` and
what others have in `/tmp`; no capability, whoever the gateway runs as. By Landlock, or as another user: what
starts it (`agentgw.launch`) gives up what it must not have and then becomes the server. A sandbox that cannot
be set up starts nothing: bwrap, or the launcher, then ends before the server.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Absolute paths: `workdir` and `write` may be written, `read` is what it is given of hidden places.

    `hidden` are folders and `hidden_file` a file that it finds empty.
    """

    workdir: str
    hidden: tuple[str, ...]
    hidden_file: str | None
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    network: bool = False


def bubblewrap(sandbox: Sandbox, command: str, args: Sequence[str]) -> tuple[str, ...]:
    """The arguments of `bwrap` that run `command` so."""
    # Not --new-session: it already is the leader of a session without a terminal, and must stay in our
    # process group to be asked to end before it is killed.
    line = ["--die-with-parent", "--cap-drop", "ALL", "--unshare-user-try"]
    line += ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    if not sandbox.network:
        line += ["--unshare-net"]
    line += ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    for folder in ("/tmp", "/run", *sandbox.hidden):  # noqa: S108 - hidden, not used
        line += ["--tmpfs", folder]
    if sandbox.hidden_file is not None:
        line += ["--ro-bind", "/dev/null", sandbox.hidden_file]
    for path in sandbox.read:
        line += ["--ro-bind", path, path]
    for path in (*sandbox.write, sandbox.workdir):
        line += ["--bind", path, path]
    return (*line, "--chdir", sandbox.workdir, "--", command, *args)


def landlocked(sandbox: Sandbox, command: str, args: Sequence[str]) -> tuple[str, ...]:
    """The arguments of `agentgw.launch` that run `command` shut in by Landlock."""
    orders = {
        "workdir": sandbox.workdir,
        "hidden": [*sandbox.hidden, *filter(None, [sandbox.hidden_file])],
        "read": sandbox.read,
        "write": sandbox.write,
        "network": sandbox.network,
    }
    return "landlock", json.dumps(orders), command, *args


def as_user(uid: int, gid: int, workdir: str, command: str, args: Sequence[str]) -> tuple[str, ...]:
    """The arguments of `agentgw.launch` that run `command` as another user, in a folder made as that user."""
    return "uid", json.dumps({"uid": uid, "gid": gid, "workdir": workdir}), command, *args
