"""The real command line, as a process of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import launched

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run `agentgw ARGS` with a home of its own and nothing else of our environment."""

    def run_command(*args: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
        own = {"HOME": str(tmp_path), "PATH": str(tmp_path), "NO_COLOR": "1"}
        return launched.run(*args, env={**own, **env})

    return run_command
