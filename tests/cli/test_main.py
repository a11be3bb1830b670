"""The root of the command line: version, usage, exit codes, keys."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer

from agentgw import __version__, cli
from agentgw.errors import AgentgwError, ConfigError

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
