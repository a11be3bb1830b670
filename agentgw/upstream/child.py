"""A child process that speaks newline-delimited JSON: its life, its lines, its last words."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from agentgw.errors import UpstreamFailed
from agentgw.mcp.message import LARGE_ANSWER
from agentgw.upstream.spawn import Process, spawn
from agentgw.upstream.translate import LargeDocument

MAX_GARBAGE = 100
"""Lines in a row that are no JSON-RPC message after which a child is ended."""

STDERR_LINE = 300
"""Characters kept of one line of standard error."""

DRAIN_SECONDS = 1.0
"""How long after its exit a process's pipes are read before what is in them is given up."""

INHERITED = frozenset({"PATH", "HOME", "LANG", "TZ", "TMPDIR", "SYSTEMROOT"})


class Listener(Protocol):
    """Whom a child reports to; called from the event loop, must not block."""

    def received(self, child: Child, message: dict[str, Any]) -> None:
        """One JSON object came."""

    def ended(self, child: Child, reason: str) -> None:
        """The process is gone and everything it wrote was handed over. Called exactly once."""


def child_environment(own: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """What a child may see: `given`, and of our `own` environment only what programs need to run.

    Tokens and keys of the gateway's environment never reach a tool server.
    """
    kept = {
        name: value
        for name, value in own.items()
        if name.upper() in INHERITED or name.startswith("LC_")
    }
    return kept | dict(given)


class Child:
    """One process in a session and group of its own.

    `max_message` caps one line in bytes, `stderr_lines` how many last lines of standard error are
    kept; `hidden` values do not show in those. Implements Watcher for its Process.
    """

    def __init__(
        self,
        listener: Listener,
        loop: asyncio.AbstractEventLoop,
        max_message: int,
        stderr_lines: int,
        hidden: Sequence[str] = (),
    ) -> None:
        self._listener = listener
        self._loop = loop
        self._max_message = max_message
        self._hidden = hidden
        self._process: Process | None = None
        self._pending = bytearray()
        self._searched = 0
        self._parsing = False
        self._garbage_run = 0
        self._last_words: deque[str] = deque(maxlen=stderr_lines)
        self._stderr_rest = b""
        self._stderr_skips = False
        self._reason: str | None = None
        self._lost = False
        self._gone: asyncio.Future[None] = loop.create_future()

    @classmethod
    async def start(
        cls,
        listener: Listener,
        command: str,
        args: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str | None,
        max_message: int,
        stderr_lines: int,
        hidden: Sequence[str] = (),
    ) -> Child:
        """Run `command`, never through a shell. Raises UpstreamFailed where it cannot be run."""
        if os.sep not in command and shutil.which(command, path=env.get("PATH")) is None:
            raise UpstreamFailed(f"cannot be started: command {command!r} is not on PATH")
        loop = asyncio.get_running_loop()
        child = cls(listener, loop, max_message, stderr_lines, hidden)
        try:
            child._process = await spawn(child, (command, *args), env, cwd)
        except OSError as error:
            where = f" in {cwd}" if cwd else ""
            raise UpstreamFailed(
                f"cannot be started: {command!r}{where}: {error.strerror}"
            ) from None
        if child._reason is not None:  # for what it wrote while its pipes were attached
            child._signal(signal.SIGKILL)
        return child

    @property
    def running(self) -> bool:
        """True until the process has exited, was told to, or stopped taking input."""
        process = self._process
        if process is None or self._reason is not None or self._lost:
            return False
        return process.exit_code is None and not process.stdin.is_closing()

    @property
    def pid(self) -> int | None:
        """The process id, which is its group id too."""
        return None if self._process is None else self._process.pid

    @property
    def last_words(self) -> tuple[str, ...]:
        """The last lines of standard error, oldest first, fit to be shown."""
        lines = tuple(self._last_words)
        rest = self._printable(self._stderr_rest)
        return (*lines, rest) if rest else lines

    def write(self, line: bytes) -> None:
        """Send one message, as `line_of` writes it. Raises UpstreamFailed where its input is closed."""
        if self._process is None or not self.running:
            raise UpstreamFailed(self._reason or "has closed its standard input")
        stdin = self._process.stdin
        if stdin.get_write_buffer_size() > self._max_message:
            raise UpstreamFailed("does not read its standard input")
        stdin.write(line)

    def kill(self, reason: str) -> None:
        """End the process at once, with its group; `reason` is what its pending requests are told."""
        if self._reason is None:
            self._reason = reason
        self._signal(signal.SIGKILL)

    async def stop(self, grace: float) -> None:
        """Close its input and ask it to end (SIGTERM); after `grace` seconds end it (SIGKILL)."""
        if self._reason is None:
            self._reason = "was stopped by the gateway"
        if self._process is not None:
            self._process.stdin.close()
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace):
                await self.gone()
        except TimeoutError:
            self._signal(signal.SIGKILL)
            await self.gone()

    async def gone(self) -> None:
        """Wait until the process is gone."""
        await asyncio.shield(self._gone)

    # What the process reports

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Bytes of standard output (1) or error (2)."""
        if fd == 2:
            self._hear(data)
        elif self._reason is None:
            self._pending += data
            if not self._parsing:
                self._take_lines()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        """A pipe is closed; without its input a process is of no use to us."""
        if fd == 0 and self._reason is None:
            self._loop.call_later(DRAIN_SECONDS, self._end_deaf)

    def process_exited(self) -> None:
        """The process ended, and its group with it; what it wrote may still be under way."""
        # A descendant that left the group may hold the pipes open for ever.
        self._loop.call_later(DRAIN_SECONDS, self._end)

    def connection_lost(self) -> None:
        """The process ended and its pipes are read to the end."""
        self._lost = True
        if not self._parsing:
            self._end()

    def _end_deaf(self) -> None:
        if self._process is not None and self._process.exit_code is None and self._reason is None:
            self.kill("closed its standard input")

    def _end(self) -> None:
        if self._gone.done():
            return
        self._gone.set_result(None)
        exit_code = None
        if self._process is not None:
            self._process.close()
            exit_code = self._process.exit_code
        self._listener.ended(self, self._reason or _epitaph(exit_code))

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.signal_group(number)

    # Standard output

    def _take_lines(self) -> None:
        """Hand over every whole line; stop where one is being parsed in a thread."""
        pending = self._pending
        while self._reason is None:
            end = pending.find(b"\n", self._searched)
            size = len(pending) if end < 0 else end
            if size > self._max_message:
                self.kill(f"sent a message of more than {self._max_message} bytes")
                break
            if end < 0:
                self._searched = size
                return
            with memoryview(pending) as view:
                line = bytes(view[:end])
            del pending[: end + 1]
            self._searched = 0
            if size >= LARGE_ANSWER:
                self._parse_aside(line)
                return
            self._take(_parse(line))
        pending.clear()

    def _parse_aside(self, line: bytes) -> None:
        """Parse in a thread; later lines wait, so that messages keep their order."""
        self._parsing = True
        self._pause(True)
        self._loop.run_in_executor(None, _parse_large, line).add_done_callback(self._parsed)

    def _parsed(self, future: asyncio.Future[dict[str, Any] | bool | None]) -> None:
        self._parsing = False
        if not future.cancelled():
            self._take(future.result())
        self._pause(False)
        self._take_lines()
        if self._lost and not self._parsing:
            self._end()

    def _pause(self, paused: bool) -> None:
        if self._process is None or self._process.stdout.is_closing():
            return
        if paused:
            self._process.stdout.pause_reading()
        else:
            self._process.stdout.resume_reading()

    def _take(self, message: dict[str, Any] | bool | None) -> None:
        if isinstance(message, dict):
            self._garbage_run = 0
            self._listener.received(self, message)
        elif message is None:
            self._garbage_run += 1
            if self._garbage_run >= MAX_GARBAGE:
                self.kill(f"wrote {MAX_GARBAGE} lines in a row that are no JSON-RPC message")

    # Standard error

    def _hear(self, data: bytes) -> None:
        *lines, rest = (self._stderr_rest + data).split(b"\n")
        for line in lines:
            if not self._stderr_skips:
                text = self._printable(line)
                if text:
                    self._last_words.append(text)
            self._stderr_skips = False
        if len(rest) > 4 * STDERR_LINE and not self._stderr_skips:
            self._last_words.append(self._printable(rest))
            self._stderr_skips = True
        self._stderr_rest = b"" if self._stderr_skips else rest

    def _printable(self, line: bytes) -> str:
        text = line[: 4 * STDERR_LINE].decode("utf-8", "replace").replace("\t", " ")
        text = "".join(filter(str.isprintable, text))
        for value in self._hidden:
            text = text.replace(value, "[hidden]")
        return text[:STDERR_LINE].strip()


def _parse(line: bytes) -> dict[str, Any] | bool | None:
    """The JSON-RPC object of a line, None for garbage, False for an empty line."""
    if not line.strip():
        return False
    try:
        value = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict) and value.get("jsonrpc") == "2.0":
        return value
    return None


def _parse_large(line: bytes) -> dict[str, Any] | bool | None:
    value = _parse(line)
    return LargeDocument(value) if isinstance(value, dict) else value


def line_of(message: Mapping[str, Any]) -> bytes:
    """A message as one line of ASCII."""
    return json.dumps(message, separators=(",", ":")).encode("ascii") + b"\n"


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _epitaph(exit_code: int | None) -> str:
    if exit_code is None:
        return "ended"
    if exit_code < 0:
        return f"was ended by signal {-exit_code}"
    return f"exited with code {exit_code}"
