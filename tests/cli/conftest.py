"""The real command line, as a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run `agentgw ARGS` with a home of its own and nothing else of our environment."""

    def run_command(*args: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "agentgw", *map(str, args)],
            capture_output=True,
            text=True,
            timeout=30,
            cwd=Path(__file__).parents[2],
            env={"HOME": str(tmp_path), "PATH": str(tmp_path), "NO_COLOR": "1", **env},
            check=False,
        )

    return run_command
