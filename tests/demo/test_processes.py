"""Children end with us, whatever our own end was."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agentgw.demo.processes import Processes, free_port, is_open
from agentgw.errors import AgentgwError

LISTEN = (
    "import socket, sys; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); s.accept();"
    "s.accept()"
)
PARENT = """
import sys
from pathlib import Path
from agentgw.demo.processes import Processes, is_open
processes = Processes(Path(sys.argv[1]), {})
processes.start("child", ["-c", sys.argv[2], sys.argv[3]])
processes.wait_until(lambda: is_open(int(sys.argv[3])), "child")
print("up", processes._guard.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="waits for a process by its pidfd")
def test_a_killed_parent_leaves_no_child_and_no_folder(tmp_path: Path) -> None:
    folder, port = tmp_path / "stage", free_port()
    folder.mkdir()
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(folder), LISTEN, str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        words = parent.stdout.readline().split()
        assert words[0] == "up"
        guard = os.pidfd_open(int(words[1]))
        parent.send_signal(signal.SIGKILL)
    # The guard's end says that it has done its work.
    wait_for(guard)
    assert not is_open(port)
    assert not folder.exists()


def wait_for(process: int) -> None:
    """Wait until the process behind a pidfd has ended, which makes it readable."""
    ended, _, _ = select.select([process], [], [], 20)
    os.close(process)
    assert ended


def test_a_child_that_fails_is_reported_with_its_last_words(tmp_path: Path) -> None:
    processes = Processes(tmp_path, {})
    try:
        processes.start("tickets", ["-c", "import sys; sys.exit('no such port')"])
        with pytest.raises(AgentgwError, match="tickets did not start:\nno such port"):
            processes.wait_until(lambda: False, "tickets")
    finally:
        processes.close()
    assert not tmp_path.exists()


def test_a_free_port_is_the_preferred_one_where_nobody_has_it() -> None:
    port = free_port()
    assert free_port(port) == port
