"""Starting a child process on any event loop, with nothing of ours in it but three pipes.

uvloop's own `subprocess_exec` leaves every inheritable descriptor open in the child, a listening socket
among them; `subprocess.Popen` closes them. So the process is Popen's and only its pipes are the loop's.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Protocol


class Watcher(Protocol):
    """Whom a process reports to, always from the event loop."""

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Bytes of standard output (1) or error (2)."""

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        """Pipe `fd` is closed."""

    def process_exited(self) -> None:
        """The process ended; its output may still be under way."""

    def connection_lost(self) -> None:
        """The process ended and its output is read to the end."""


class _Pipe(asyncio.Protocol):
    def __init__(self, process: Process, fd: int) -> None:
        self._process = process
        self._fd = fd

    def data_received(self, data: bytes) -> None:
        self._process.watcher.pipe_data_received(self._fd, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._process.pipe_lost(self._fd, exc)


class Process:
    """A running child in a session and group of its own.

    `stdin` and `stdout` are the transports of its pipes. Made by `spawn`.
    """

    def __init__(
        self, popen: subprocess.Popen[bytes], watcher: Watcher, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.watcher = watcher
        self.stdin: asyncio.WriteTransport
        self.stdout: asyncio.ReadTransport
        self._stderr: asyncio.ReadTransport
        self._popen = popen
        self._loop = loop
        self._unread = {1, 2}
        self._exited = False

    @property
    def pid(self) -> int:
        """The process id, which is its group id too."""
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative for a signal."""
        return self._popen.returncode if self._exited else None

    async def connect(self) -> None:
        """Attach the pipes to the event loop and watch for the end."""
        popen, loop = self._popen, self._loop
        assert popen.stdin is not None
        assert popen.stdout is not None
        assert popen.stderr is not None
        try:
            self.stdin, _ = await loop.connect_write_pipe(lambda: _Pipe(self, 0), popen.stdin)
            self.stdout, _ = await loop.connect_read_pipe(lambda: _Pipe(self, 1), popen.stdout)
            self._stderr, _ = await loop.connect_read_pipe(lambda: _Pipe(self, 2), popen.stderr)
        except BaseException:
            self.signal_group(signal.SIGKILL)
            popen.wait()
            raise
        threading.Thread(target=self._wait, name=f"wait-{popen.pid}", daemon=True).start()

    def signal_group(self, number: signal.Signals) -> None:
        """Signal the process and its descendants in the group; nothing once it ended."""
        if self._popen.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._popen.pid, number)

    def close(self) -> None:
        """Close all pipes."""
        for pipe in (self.stdin, self.stdout, self._stderr):
            pipe.close()

    def pipe_lost(self, fd: int, exc: Exception | None) -> None:
        """One of the pipes is closed."""
        self._unread.discard(fd)
        self.watcher.pipe_connection_lost(fd, exc)
        self._end_if_read()

    def _wait(self) -> None:
        """Runs in a thread: end the rest of the group while the dead leader still holds its id."""
        if hasattr(os, "waitid"):
            os.waitid(os.P_PID, self._popen.pid, os.WEXITED | os.WNOWAIT)
            self.signal_group(signal.SIGKILL)
        self._popen.wait()
        with suppress(RuntimeError):  # the event loop is closed: nobody is left to be told
            self._loop.call_soon_threadsafe(self._has_exited)

    def _has_exited(self) -> None:
        self._exited = True
        self.stdin.close()
        self.watcher.process_exited()
        self._end_if_read()

    def _end_if_read(self) -> None:
        if self._exited and not self._unread:
            self.watcher.connection_lost()


async def spawn(
    watcher: Watcher, command: Sequence[str], env: Mapping[str, str], cwd: str | None
) -> Process:
    """Start `command` (no shell) with exactly `env`. Raises OSError where it cannot be run."""
    # Popen returns once the program is loaded, some milliseconds; that is what asyncio does as well.
    popen = subprocess.Popen(  # noqa: ASYNC220
        command,
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(env),
        cwd=cwd,
        start_new_session=True,
    )
    process = Process(popen, watcher, asyncio.get_running_loop())
    await process.connect()
    return process
