"""Every story of `examples/agents` holds, run as its README says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STORIES = sorted(path.parent for path in (ROOT / "examples" / "agents").glob("*/agent.py"))
LINES = 80


@pytest.mark.parametrize("story", STORIES, ids=lambda path: path.name)
def test_a_story_holds(story: Path) -> None:
    module = f"examples.agents.{story.name}.agent"
    command = f"python -m {module}"
    assert command in (story / "README.md").read_text("utf-8")
    done = subprocess.run(
        [sys.executable, "-m", module],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "eyJ" not in done.stdout + done.stderr, "a token was printed"


def test_there_is_a_story_for_each_promise() -> None:
    names = {story.name for story in STORIES}
    assert names >= {"one_agent", "chained_agents", "denied_call", "read_the_audit"}


@pytest.mark.parametrize("story", STORIES, ids=lambda path: path.name)
def test_a_story_stays_short(story: Path) -> None:
    assert len((story / "agent.py").read_text("utf-8").splitlines()) <= LINES
