"""The process whose calls `count.py` counts: the whole application, driven over transports in memory.

c connections get the canned request in the same moment, and again once all have their answer, so that
every run takes the same way: one batch of c decisions, c signatures in a row. The tool server is the
static upstream, over real sockets. Writes JSON: what was counted for each function, and the best time.

With `--how none` it says `ready` and waits for a line before it makes its calls, and `done` and waits for
another after them: between the two somebody else counts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import uvloop
from wire import CALL_ANSWER

import agentgw.app
import agentgw.app.serve
import agentgw.audit.log
import agentgw.config
from agentgw.http.connection import Connection, Limits

HOW = ("none", "calls", "bytecodes", "time")
_WARM_CALLS = 64


class Wave:
    """c calls at once; over when all are answered."""

    def __init__(self) -> None:
        self.left = 0
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def answered(self, data: bytes) -> None:
        """Count one answer; a wrong one ends the run."""
        if not (data.startswith(b"HTTP/1.1 200") and data.endswith(CALL_ANSWER)):
            if not self.over.done():
                self.over.set_exception(RuntimeError(f"a wrong answer: {data[:700]!r}"))
            return
        self.left -= 1
        if not self.left and not self.over.done():
            self.over.set_result(None)


class Memory(asyncio.Transport):
    """The client's end of a connection: what is written to it has arrived."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self.wave: Wave | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert self.wave is not None
        self.wave.answered(bytes(data))

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass


class Server:
    """What a connection knows of uvicorn's server."""

    def __init__(self) -> None:
        self.connections: set[Any] = set()
        self.tasks: set[asyncio.Task[None]] = set()


class Counts:
    """Calls of Python and of C functions, or bytecodes, by the Python function they happen in."""

    def __init__(self) -> None:
        self.on = False
        self.python: Counter[CodeType] = Counter()
        self.c: Counter[CodeType] = Counter()
        self.bytecodes: Counter[CodeType] = Counter()

    def profile(self, frame: FrameType, event: str, _: object) -> None:
        """For `sys.setprofile`."""
        if self.on and event == "call":
            self.python[frame.f_code] += 1
        elif self.on and event == "c_call":
            self.c[frame.f_code] += 1

    def trace(self, frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        """For `sys.settrace`."""
        if event == "call":
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
        elif event == "opcode" and self.on:
            self.bytecodes[frame.f_code] += 1
        return self.trace

    def table(self) -> list[dict[str, Any]]:
        """One object per function, this tool's own left out."""
        codes = {*self.python, *self.c, *self.bytecodes}
        return [
            {
                "function": code.co_qualname,
                "file": code.co_filename,
                "line": code.co_firstlineno,
                "python": self.python[code],
                "c": self.c[code],
                "bytecodes": self.bytecodes[code],
            }
            for code in codes
            if code.co_filename != __file__
        ]


async def drive(given: argparse.Namespace, counts: Counts) -> dict[str, Any]:
    """Make the calls. Raises RuntimeError for a wrong answer."""
    app = await agentgw.app.build(agentgw.config.load(given.config, os.environ))
    vars(sys.modules["agentgw.app.serve"])["_spare_the_collector"]()
    await app.warm_up()
    loop, server = asyncio.get_running_loop(), Server()
    ends = [(Connection(app.site, Limits(), server, loop), Memory()) for _ in range(given.c)]
    for connection, memory in ends:
        connection.connection_made(memory)
    request = given.request.read_bytes()
    best = float("inf")

    async def waves(calls: int) -> None:
        nonlocal best
        for _ in range(calls // given.c):
            wave, begun = Wave(), time.process_time()
            wave.left = given.c
            for connection, memory in ends:
                memory.wave = wave
                connection.data_received(request)
            await wave.over
            best = min(best, (time.process_time() - begun) / given.c)

    await waves(max(_WARM_CALLS, 2 * given.c))
    best = float("inf")
    if given.how == "none":
        print("ready", flush=True)
        sys.stdin.readline()
    counts.on = True
    await waves(given.calls)
    counts.on = False
    if given.how == "none":
        print("done", flush=True)
        sys.stdin.readline()
    await app.close()
    return {"calls": given.calls // given.c * given.c, "best_us": best * 1e6}


def main() -> None:
    """Count, and print what was counted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--request", type=Path, required=True, help="file with the request's bytes")
    parser.add_argument("--c", type=int, required=True)
    parser.add_argument("--calls", type=int, required=True)
    parser.add_argument("--how", choices=HOW, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    # Counting slows this process a hundredfold, and outcomes shall still ride with the next decision.
    vars(agentgw.audit.log)["OUTCOMES_WAIT"] = 2.0
    counts = Counts()
    if given.how == "calls":
        threading.setprofile(counts.profile)
        sys.setprofile(counts.profile)
    elif given.how == "bytecodes":
        threading.settrace(counts.trace)
        sys.settrace(counts.trace)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        made = runner.run(drive(given, counts))
    sys.setprofile(None)
    sys.settrace(None)
    given.out.write_text(json.dumps({**made, "functions": counts.table()}))


if __name__ == "__main__":
    main()
