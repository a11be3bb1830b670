"""Give up what a server must not have, then become it: `agentgw.launch KIND ORDERS COMMAND ARGS…`.

`KIND` is `landlock` or `uid`, `ORDERS` a JSON object of what core/sandbox.py says. Whatever cannot be given
up ends this with 126 and the reason on standard error, and nothing is started.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any, NoReturn

from agentgw.launch.kernel import drop_capabilities, no_new_privileges
from agentgw.launch.landlock import restrict
from agentgw.launch.sockets import refuse_sockets


def shut_in(orders: dict[str, Any]) -> None:
    """Keep this process from files, and from the network unless it may use it. Raises OSError."""
    os.chdir(orders["workdir"])
    no_new_privileges()
    drop_capabilities()
    network = bool(orders["network"])
    writable = [*orders["write"], orders["workdir"]]
    restrict(orders["hidden"], orders["read"], writable, network=network)
    refuse_sockets(network=network)


def become(orders: dict[str, Any]) -> None:
    """Go on as another user, in a folder of that user's, with no way back. Raises OSError."""
    uid, gid, workdir = orders["uid"], orders["gid"], orders["workdir"]
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    no_new_privileges()
    drop_capabilities()
    if uid == 0 or os.getresuid() != (uid, uid, uid) or os.getresgid() != (gid, gid, gid):
        raise OSError(1, "this process did not become that user")
    # Made as that user: in a folder of theirs, whatever we made could be swapped for a link of theirs.
    os.makedirs(workdir, mode=0o700, exist_ok=True)
    os.chdir(workdir)


def main() -> NoReturn:
    """Shut this process in and become the command."""
    kind, orders, command, *args = sys.argv[1:]
    try:
        {"landlock": shut_in, "uid": become}[kind](json.loads(orders))
    except OSError as error:
        _give_up(f"the server cannot be shut in by sandbox {kind}: {_told(error)}")
    # Python ignores these two, and a server would inherit that.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    try:
        os.execv(command, [command, *args])  # noqa: S606 - no shell is wanted
    except OSError as error:
        _give_up(f"the server shut in by sandbox {kind} cannot be run: {_told(error)}: {command}")


def _told(error: OSError) -> str:
    place = f": {error.filename}" if error.filename else ""
    return f"{error.strerror}{place}"


def _give_up(why: str) -> NoReturn:
    print(why, file=sys.stderr, flush=True)
    raise SystemExit(126)


if __name__ == "__main__":
    main()
