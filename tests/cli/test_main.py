"""The root of the command line: version, usage, exit codes, keys."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from agentgw import __version__, cli
from agentgw.errors import AgentgwError, ConfigError
from agentgw.sts.keys import KeyRing

from .conftest import Run


def test_version_and_help_go_to_stdout(run: Run) -> None:
    assert run("--version").stdout == f"agentgw {__version__}\n"
    done = run("--help")
    assert done.returncode == 0 and "Usage:" in done.stdout and "\x1b" not in done.stdout


def test_wrong_usage_is_exit_2_on_stderr(run: Run) -> None:
    done = run("swerve")
    assert (done.returncode, done.stdout) == (2, "")
    assert "swerve" in done.stderr


def test_the_root_loads_nothing_slow() -> None:
    slow = {"pydantic", "sqlalchemy", "starlette", "cryptography", "httpx2", "cel", "rich", "mcp"}
    code = f"import agentgw.cli, sys; print(*sorted({slow!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("a.yaml", 3, "is wrong", "mend it"), 3, "error: a.yaml:3: is wrong (mend it)"),
        (AgentgwError("the port is in use"), 1, "error: the port is in use"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_errors_become_one_line_and_an_exit_code(
    error: BaseException,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        raise error

    failing = typer.Typer()
    failing.command()(fail)
    monkeypatch.setattr(cli, "app", failing)
    monkeypatch.setattr(sys, "argv", ["agentgw"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == code
    assert capsys.readouterr().err.strip() == line


def test_keys_are_listed_and_rotated_but_never_made_by_looking(run: Run, tmp_path: Path) -> None:
    config, state = tmp_path / "agentgw.yaml", tmp_path / "state"
    config.write_text("version: 1\npublic_url: https://gw.example.com\n")
    config.chmod(0o600)
    where = ("--config", config, "--state-dir", state)
    none = run("keys", "list", *where)
    assert none.returncode == 1 and "holds no keys yet" in none.stderr and not state.exists()
    first = KeyRing(state, clock=lambda: time.time() - 120).current.kid
    rows = json.loads(run("keys", "list", "--json", *where).stdout)
    assert [row["state"] for row in rows] == ["current", "next"]
    assert rows[0]["kid"] == first and rows[0]["created"].endswith("Z")
    rotated = run("keys", "rotate", *where).stdout.strip()
    assert rotated == rows[1]["kid"] == KeyRing(state).current.kid
    early = run("keys", "rotate", *where)
    assert early.returncode == 1 and "rotate again in " in early.stderr
    listed = run("keys", "list", *where).stdout.splitlines()
    assert [line.split()[1] for line in listed] == ["current", "next", "retired"]
    assert "PRIVATE" not in "".join(listed)
