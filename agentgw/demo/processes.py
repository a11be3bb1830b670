"""Child processes that do not outlive us, however we end."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from agentgw.errors import AgentgwError

PATIENCE = 30.0
"""Seconds a child may take to start."""

_GRACE = 5.0
_PREFERRED_PORT = 7117
# Reads commands until its standard input ends, which it does even when we are killed outright.
_GUARD = """
import os, shutil, signal, sys, time
pids, folders = [], []
for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(signum, signal.SIG_IGN)
for line in sys.stdin:
    kind, _, value = line.rstrip("\\n").partition(" ")
    if kind == "pid":
        pids.append(int(value))
    elif kind == "gone":
        pids.remove(int(value))
    elif kind == "folder":
        folders.append(value)

def tell(pid, signum):
    try:
        os.kill(pid, signum)
        return True
    except OSError:
        return False

for pid in pids:
    tell(pid, signal.SIGTERM)
deadline = time.monotonic() + 5
while any([tell(pid, 0) for pid in pids]) and time.monotonic() < deadline:
    time.sleep(0.02)
for pid in pids:
    tell(pid, signal.SIGKILL)
for folder in folders:
    shutil.rmtree(folder, ignore_errors=True)
"""


class Processes:
    """Starts children, each with its output in a file of `folder`; ends them and the folder at the end.

    A guard beside us does the same where we cannot (SIGKILL). `environment` is that of the children.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = environment
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._guard = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", _GUARD],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self._tell(f"folder {folder}")

    def start(self, name: str, arguments: Sequence[str]) -> None:
        """Run `python ARGUMENTS` as the child `name`."""
        with self._log(name).open("wb") as log:
            child = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
        self._children[name] = child
        self._tell(f"pid {child.pid}")

    def pid(self, name: str) -> int:
        """The process id of the child `name`."""
        return self._children[name].pid

    def wait_until(self, ready: Callable[[], bool], name: str) -> None:
        """Wait for the child `name`. Raises AgentgwError, with its last words, if it gives up."""
        deadline = time.monotonic() + PATIENCE
        while not ready():
            if self._children[name].poll() is not None:
                raise AgentgwError(f"{name} did not start:\n{self._last_words(name)}")
            if time.monotonic() > deadline:
                late = f"{name} was not ready after {PATIENCE:.0f} s"
                raise AgentgwError(f"{late}:\n{self._last_words(name)}")
            time.sleep(0.02)

    def check(self) -> None:
        """Raises AgentgwError for the first child that has ended."""
        for name, child in self._children.items():
            if child.poll() is not None:
                raise AgentgwError(f"{name} has ended:\n{self._last_words(name)}")

    def close(self) -> None:
        """End the children, those that will not by force, and remove the folder."""
        for child in self._children.values():
            child.terminate()
        deadline = time.monotonic() + _GRACE
        for child in self._children.values():
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            self._tell(f"gone {child.pid}")
        shutil.rmtree(self._folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            assert self._guard.stdin is not None
            self._guard.stdin.close()
        self._guard.wait()

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def _last_words(self, name: str) -> str:
        lines = self._log(name).read_text("utf-8", "replace").splitlines()
        return "\n".join(lines[-10:])

    def _tell(self, line: str) -> None:
        assert self._guard.stdin is not None
        with contextlib.suppress(OSError):
            self._guard.stdin.write(f"{line}\n")
            self._guard.stdin.flush()


def is_open(port: int) -> bool:
    """Whether somebody listens on that port of loopback."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def free_port(preferred: int = 0) -> int:
    """A port of loopback that nobody listens on: the preferred one, if it is free."""
    for port in (preferred, 0):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)) as found:
            return int(found.getsockname()[1])
    raise AgentgwError("no port of 127.0.0.1 is free")


def usual_port() -> int:
    """The gateway's usual port where it is free, else another."""
    return free_port(_PREFERRED_PORT)


def owner_only(path: Path, text: str) -> Path:
    """Write a file that nobody else may read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    return path
