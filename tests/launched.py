"""Gateways and commands as processes forked from one which has read all of agentgw's code already.

Reading it is most of what a start costs, and the tests start hundreds. What they start with flags
or limits of its own is a cold `python -m agentgw` instead, and so is each command of the documents.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["agentgw.cli", "agentgw.app", "uvloop", "httptools", __name__])


class Forked:
    """`agentgw ARGUMENTS...` in `folder`, its stderr going to the end of the file `stderr`, what it prints
    to that of `stdout`, if given.

    It has what tests use of a `subprocess.Popen`, by the same names.
    """

    def __init__(
        self,
        arguments: tuple[str, ...],
        folder: Path,
        stderr: Path,
        env: Mapping[str, str],
        stdout: Path | None = None,
    ) -> None:
        self._process: ForkServerProcess = _FORKS.Process(
            target=_main, args=(arguments, folder, stderr, dict(env), stdout)
        )
        self._process.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return its exit code; `TimeoutExpired` after `timeout` seconds."""
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired("agentgw", timeout or 0)
        return code

    def send_signal(self, sig: int) -> None:
        """Send it a signal, unless it is gone."""
        if self.poll() is None:
            os.kill(self.pid, sig)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


def run(
    *arguments: str | Path, env: Mapping[str, str], folder: Path = ROOT, timeout: float = 30
) -> subprocess.CompletedProcess[str]:
    """Run the command `agentgw ARGUMENTS...` to its end, as `subprocess.run` would."""
    given = tuple(map(str, arguments))
    with tempfile.TemporaryDirectory() as name:
        out, err = Path(name, "out"), Path(name, "err")
        forked = Forked(given, folder, err, env, out)
        try:
            code = forked.wait(timeout)
        finally:
            forked.kill()
        return subprocess.CompletedProcess(given, code, out.read_text(), err.read_text())


def _main(
    arguments: tuple[str, ...], folder: Path, stderr: Path, env: dict[str, str], stdout: Path | None
) -> None:
    """What the forked process does: what `python -m agentgw` would."""
    from agentgw.cli import main

    os.chdir(folder)
    for file, descriptor in ((stdout, 1), (stderr, 2)):
        if file is not None:
            with file.open("ab") as said:
                os.dup2(said.fileno(), descriptor)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = ["agentgw", *arguments]
    main()
