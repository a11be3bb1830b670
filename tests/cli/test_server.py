"""`agentgw server`: what is configured, what is approved, and approving anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentgw.registry.pins import ToolPins
from agentgw.registry.schema import open_database

from .conftest import Run

CONFIG = """\
version: 1
public_url: https://gw.example.com
servers:
  local: {command: /bin/sh}
  web: {url: https://web.example/mcp}
  open: {url: https://open.example/mcp, headers: {X-Key: k}}
"""


@pytest.fixture
def where(tmp_path: Path) -> tuple[Any, ...]:
    file = tmp_path / "agentgw.yaml"
    file.write_text(CONFIG)
    file.chmod(0o600)
    return ("--config", file, "--state-dir", tmp_path / "state")


def pins_of(folder: Path) -> ToolPins:
    (folder / "state").mkdir(mode=0o700)
    return ToolPins(open_database(folder / "state" / "agentgw.db"))


def test_list_shows_kind_audience_and_approved_tools(
    run: Run, tmp_path: Path, where: tuple[Any, ...]
) -> None:
    pins_of(tmp_path).approve("web", {"a": "sha-256:A", "b": "sha-256:B"})
    rows = json.loads(run("server", "list", "--json", *where).stdout)
    assert rows == [
        {
            "name": "local",
            "kind": "stdio",
            "sandbox": "none",
            "audience": None,
            "approved_tools": 0,
        },
        {
            "name": "web",
            "kind": "http",
            "sandbox": None,
            "audience": "https://web.example/mcp",
            "approved_tools": 2,
        },
        {
            "name": "open",
            "kind": "http",
            "sandbox": None,
            "audience": None,
            "approved_tools": 0,
        },
    ]
    lines = run("server", "list", *where).stdout.splitlines()
    assert lines[0] == "local  stdio  0 approved tools  -  sandbox none"
    assert lines[1] == "web  http   2 approved tools  https://web.example/mcp"


def test_looking_and_approving_make_no_state(
    run: Run, tmp_path: Path, where: tuple[Any, ...]
) -> None:
    assert run("server", "list", *where).returncode == 0
    done = run("server", "approve", "web", "--json", *where)
    assert json.loads(done.stdout) == {"server": "web", "forgotten": 0}
    assert not (tmp_path / "state").exists()


def test_approve_forgets_the_approvals_of_that_server_only(
    run: Run, tmp_path: Path, where: tuple[Any, ...]
) -> None:
    pins = pins_of(tmp_path)
    pins.approve("web", {"a": "sha-256:A"})
    pins.approve("local", {"a": "sha-256:A"})
    done = run("server", "approve", "web", *where)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "web: 1 approvals forgotten; the tools it lists next are approved\n"
    assert pins.of("web") == {} and pins.of("local") == {"a": "sha-256:A"}


def test_an_unknown_server_is_named_with_those_there_are(run: Run, where: tuple[Any, ...]) -> None:
    done = run("server", "approve", "wbe", *where)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "it has: local, web, open" in done.stderr


def test_a_damaged_database_is_one_line(run: Run, tmp_path: Path, where: tuple[Any, ...]) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "agentgw.db").write_bytes(b"no database" * 100)
    done = run("server", "list", *where)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "state database cannot be used: file is not a database" in done.stderr
