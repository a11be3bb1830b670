"""A light MCP tool server over standard input and output, standard library only.

    python tools/servers/stdio_echo.py [--era modern|handshake|both] [--noise] [--record FILE]
                                        [--environ FILE]

Tools: echo, fail, progress, structured, slow, die, env. `--noise` writes to standard error and prints
lines on standard output that are no JSON-RPC. `--record FILE` appends each message received,
`--environ FILE` holds the environment and arguments it was started with.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path

from echo_tools import MODERN, PROCESS_TOOLS, TOOLS, Message, Recorder, respond


class Server:
    """Answers each request in a task of its own, so that slow ones hold up nobody."""

    def __init__(self, era: str, noise: bool, recorder: Recorder) -> None:
        self._era = era
        self._noise = noise
        self._recorder = recorder
        self._tasks: dict[object, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Serve until standard input ends."""
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.buffer.readline):
            message = json.loads(line)
            self._recorder.record({"body": message})
            if self._noise:
                print("a line that is no JSON-RPC", flush=True)
                print(f"\x1b[31mnoise\x1b[0m about {message.get('method')}", file=sys.stderr)
            if message.get("method") == "notifications/cancelled":
                task = self._tasks.get(message["params"]["requestId"])
                if task is not None:
                    task.cancel()
            elif "id" in message:
                self._tasks[message["id"]] = loop.create_task(self._serve(message))

    async def _serve(self, message: Message) -> None:
        try:
            await self._answer(message)
        finally:
            del self._tasks[message["id"]]

    async def _answer(self, message: Message) -> None:
        modern = self._is_modern(message)
        if modern is None:
            refusal = {"code": -32601, "message": "Method not found"}
            await _send({"jsonrpc": "2.0", "id": message["id"], "error": refusal})
            return
        tools = TOOLS + PROCESS_TOOLS
        answer = await respond(message, _send, modern=modern, tools=tools)
        if answer is not None:
            await _send(answer)

    def _is_modern(self, message: Message) -> bool | None:
        """The era of one message, None where this server does not speak it."""
        meta = (message.get("params") or {}).get("_meta") or {}
        modern = meta.get("io.modelcontextprotocol/protocolVersion") == MODERN
        if self._era != "both" and modern != (self._era == "modern"):
            return None
        return modern


async def _send(message: Message) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(description="a light MCP tool server over stdio")
    parser.add_argument("--era", choices=("modern", "handshake", "both"), default="both")
    parser.add_argument("--noise", action="store_true")
    parser.add_argument("--record", metavar="FILE")
    parser.add_argument("--environ", metavar="FILE", type=Path)
    options = parser.parse_args()
    if options.environ is not None:
        options.environ.write_text(json.dumps({"environ": dict(os.environ), "argv": sys.argv}))
    asyncio.run(Server(options.era, options.noise, Recorder(options.record)).run())


if __name__ == "__main__":
    main()
