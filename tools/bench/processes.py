"""Processes of a benchmark: started on a core of choice, read from /proc, and always ended."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_TICKS = os.sysconf("SC_CLK_TCK")
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
_GRACE_SECONDS = 3.0


class NotStarted(RuntimeError):
    """A server did not come up; the message carries the last lines it said."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Where to run: the server under test, and the load generator with the upstream (None: anywhere)."""

    server: int | None = None
    load: int | None = None

    @classmethod
    def pinned(cls) -> Cores:
        """The first two cores this process may use. Raises NotStarted when there is only one."""
        allowed = sorted(os.sched_getaffinity(0))
        if len(allowed) < 2:
            raise NotStarted("--pin needs two cores, and this process may use one only")
        return cls(server=allowed[0], load=allowed[1])


@dataclass(frozen=True, slots=True)
class Child:
    """A running process with its own process group; `log` holds what it says."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def last_words(self) -> str:
        """The end of its log, for an error message."""
        return self.log.read_text(errors="replace")[-1500:].strip() or "(it said nothing)"


@contextlib.contextmanager
def running(
    name: str,
    command: Sequence[str],
    folder: Path,
    *,
    core: int | None = None,
    env: Mapping[str, str] | None = None,
    stdin: int = subprocess.DEVNULL,
    stdout: int | IO[bytes] | None = None,
) -> Iterator[Child]:
    """Run `command` until the block ends; its output goes to a log in `folder`.

    The process dies with its group when the block ends, and with this process even if that is
    killed outright.
    """

    parent = os.getpid()

    def prepare() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)  # it died before it could be watched
        if core is not None:
            os.sched_setaffinity(0, {core})

    log = folder / f"{name}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=output if stdout is None else stdout,
            stderr=output,
            env={**os.environ, **(env or {})},
            start_new_session=True,
            preexec_fn=prepare,
        )
    try:
        yield Child(name, process, log)
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_SECONDS)
    for pipe in (process.stdin, process.stdout):
        if pipe:
            pipe.close()


@contextlib.contextmanager
def python_server(
    script: Path, folder: Path, *arguments: str, core: int | None
) -> Iterator[tuple[Child, int]]:
    """Run one of our own scripts that prints `{"port": N}`; gives the process and the port."""
    command = [sys.executable, str(script), *arguments]
    with running(script.stem, command, folder, core=core, stdout=subprocess.PIPE) as child:
        assert child.process.stdout
        line = child.process.stdout.readline()
        if not line:
            raise NotStarted(f"{child.name} did not start: {child.last_words()}")
        yield child, int(json.loads(line)["port"])


def free_port() -> int:
    """A port of 127.0.0.1 that was free a moment ago, for servers that cannot say which they took."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(child: Child, ready: Callable[[], str], seconds: float) -> None:
    """Poll `ready` until it returns "" (its text is the reason it is not). Raises NotStarted."""
    deadline = time.monotonic() + seconds
    reason = "nothing tried yet"
    while time.monotonic() < deadline:
        if child.process.poll() is not None:
            code = child.process.returncode
            said = child.last_words()
            last = said.splitlines()[-1]
            raise NotStarted(f"{child.name} ended with {code}: {last}\n{said}")
        reason = ready()
        if not reason:
            return
        time.sleep(0.05)
    raise NotStarted(
        f"{child.name} was not ready within {seconds:.0f} s: {reason}\n{child.last_words()}"
    )


def _tree(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                children.setdefault(int(_stat(int(entry))[1]), []).append(int(entry))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the command name, so that index 0 is the state (proc(5) field 3)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def cpu_seconds(root: int) -> float:
    """User and system time of a process, its threads, and its children living and reaped."""
    ticks = 0
    for pid in _tree(root):
        with contextlib.suppress(OSError):
            ticks += sum(int(field) for field in _stat(pid)[11:15])
    return ticks / _TICKS


def rss_bytes(root: int) -> int:
    """Resident memory of a process and its living children, shared pages counted once for each."""
    total = 0
    for pid in _tree(root):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    total += int(line.split()[1]) * 1024
    return total
