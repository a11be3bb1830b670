"""A stdio tool server that remembers what it was told, in its process and in its folder, and says for whom.

Standard library only.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

KEPT: list[str] = []


def told(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """What the tool `name` gives: `keep` takes a note, `die` ends the process."""
    if name == "die":
        os._exit(3)
    note = arguments.get("note")
    if note is not None:
        KEPT.append(note)
        with Path("notes").open("a", encoding="utf-8") as file:
            file.write(f"{note}\n")
    written = Path("notes").read_text("utf-8").split() if Path("notes").exists() else []
    return {
        "kept": KEPT, "written": written, "pid": os.getpid(), "folder": os.getcwd(),
        "subject": os.environ.get("AGENTGW_SUBJECT"),
    }  # fmt: skip


def answer(method: str, params: dict[str, Any]) -> dict[str, Any]:
    """The result of one request of a handshake client."""
    if method == "initialize":
        info = {"name": "keeper", "version": "1"}
        version = params["protocolVersion"]
        offers: dict[str, Any] = {"tools": {}, "resources": {}}
        return {"protocolVersion": version, "capabilities": offers, "serverInfo": info}
    if method == "tools/list":
        schema = {"type": "object", "properties": {"note": {"type": "string"}}}
        return {"tools": [{"name": name, "inputSchema": schema} for name in ("keep", "die")]}
    if method == "resources/list":
        return {"resources": [{"uri": f"note:{note}", "name": note} for note in KEPT]}
    text = json.dumps(told(params["name"], params["arguments"]))
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
