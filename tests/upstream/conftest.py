"""The fault-injecting tool server as a process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SERVERS = Path(__file__).parents[2] / "tools" / "servers"


@pytest.fixture(scope="session")
def faulty_url() -> Iterator[str]:
    """`http://127.0.0.1:port/mcp/` of the fault-injecting tool server."""
    command = [sys.executable, str(SERVERS / "faulty.py"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        port = json.loads(process.stdout.readline())["port"]
        yield f"http://127.0.0.1:{port}/mcp/"
        process.terminate()
