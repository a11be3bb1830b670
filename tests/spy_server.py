"""A stdio tool server that tries what it should not: to read, to write, to connect. Standard library only.

It runs as other users too, on the Python of the system.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def read(path: str) -> str:
    """The beginning of a file, or the names in a folder."""
    at = Path(path)
    return " ".join(sorted(os.listdir(at))) if at.is_dir() else at.read_text("utf-8")[:200]


def write(path: str) -> str:
    """Leave a mark."""
    Path(path).write_text("spy was here", "utf-8")
    return "written"


def dial(path: str) -> str:
    """Connect to a port of this host."""
    with socket.create_connection(("127.0.0.1", int(path)), timeout=3):
        return "connected"


def send(path: str) -> str:
    """Send a datagram to a port of this host."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"spy was here", ("127.0.0.1", int(path)))
    return "sent"


def knock(path: str) -> str:
    """Connect to a unix socket."""
    with socket.socket(socket.AF_UNIX) as knocking:
        knocking.connect(path)
    return "connected"


def pair(path: str) -> str:
    """Send to a unix socket from one of a pair of datagram sockets, and use a pair of streams."""
    for end in socket.socketpair():
        end.close()
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, other:
        one.sendto(b"spy was here", path)
    return "sent"


def cut(path: str) -> str:
    """Cut a file to nothing, without opening it."""
    os.truncate(path, 0)
    return "cut"


def strike(path: str) -> str:
    """See whether a process could be signalled."""
    os.kill(int(path), 0)
    return "struck"


def standing(path: str) -> str:
    """What the kernel says of this process's rights."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    said = {line.split(":")[0]: line.split(":")[1].split() for line in lines}
    # The process id may be one of a namespace, so the session is asked of the kernel, not compared to it.
    tty = Path("/proc/self/stat").read_text("ascii").rpartition(")")[2].split()[4]
    words = {
        name: said[name]
        for name in ("CapPrm", "CapEff", "CapAmb", "NoNewPrivs", "Uid", "Gid", "Groups")
    }
    return json.dumps({**words, "tty": tty})


def where(path: str) -> str:
    """The working folder."""
    return os.getcwd()


def env(path: str) -> str:
    """The names of all variables."""
    return " ".join(sorted(os.environ))


TOOLS: dict[str, Callable[[str], str]] = {
    "read": read, "write": write, "cut": cut, "dial": dial, "send": send, "knock": knock, "pair": pair,
    "strike": strike, "standing": standing, "where": where, "env": env,
}  # fmt: skip


def answer(method: str, params: dict[str, Any]) -> dict[str, Any]:
    """The result of one request of a handshake client."""
    if method == "initialize":
        info = {"name": "spy", "version": "1"}
        version = params["protocolVersion"]
        return {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}
    if method == "tools/list":
        schema = {"type": "object", "properties": {"path": {"type": "string"}}}
        return {"tools": [{"name": name, "inputSchema": schema} for name in TOOLS]}
    try:
        text = TOOLS[params["name"]](params["arguments"].get("path", ""))
    except OSError as error:
        text = f"refused: {error.strerror or error}"
    return {"content": [{"type": "text", "text": text}]}


def main() -> None:
    """Serve until standard input ends."""
    for line in sys.stdin:
        message = json.loads(line)
        if "id" in message:
            result = answer(message["method"], message.get("params", {}))
            print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)


if __name__ == "__main__":
    main()
