"""`agentgw config`: one clear line and exit 3 for a wrong file, and no secret on any stream."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Run

HEAD = "version: 1\npublic_url: https://gw.example.com\n"
SECRET = "hunter2-correct-horse"


def write(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "agentgw.yaml"
    path.write_text(text)
    path.chmod(mode)
    return path


WRONG = {
    "a wrong key": ("isuers: {}", 3, "unknown key 'isuers' (did you mean 'issuers'?)"),
    "a wrong type": ("workers: many", 3, "workers should be a whole number"),
    "a missing command": ("servers: {a: {command: no-such-program}}", 3, "'no-such-program'"),
    "a duplicate server": (
        "servers:\n  a: {url: https://a.example}\n  a: {url: https://b.example}",
        5,
        "duplicate key 'a' (first on line 4)",
    ),
    "a duplicate key": ("workers: 1\nworkers: 2", 4, "duplicate key 'workers'"),
    "bad YAML": (f"agents: {{a: {{auth: {{secret: {SECRET}", 4, "is no valid YAML"),
    "an undefined anchor": (f"agents: {{a: {{auth: {{secret: *{SECRET}}}}}}}", 3, "an anchor"),
    "a secret in the wrong place": (f"agents: {{a: {{auth: {SECRET}}}}}", 3, "agents.a.auth"),
    "an unknown agent": ("grants: [{agents: [a], tools: ['b/*']}]", 3, "unknown agent 'a'"),
    "a bad network": ("trusted_proxies: [10.0.0.0/99]", 3, "trusted_proxies[0]"),
    "an unset reference": ("agents: {a: {auth: {secret: '${env:NO}'}}}", 3, "NO is not set"),
    "a referenced secret in the wrong place": (
        "servers: {a: {command: '${env:KEY}'}}",
        3,
        "the command '${env:KEY}'",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_earns_one_line_and_exit_3(run: Run, tmp_path: Path, case: str) -> None:
    text, line, message = WRONG[case]
    path = write(tmp_path, f"{HEAD}{text}\n")
    done = run("config", "check", "--config", path, KEY=SECRET)
    assert done.returncode == 3 and done.stdout == ""
    assert done.stderr.startswith(f"error: {path}:{line}: ") and message in done.stderr
    assert done.stderr.count("\n") == 1 and SECRET not in done.stderr


@pytest.mark.parametrize(
    "args",
    [("config", "show"), ("serve",), ("keys", "list"), ("config", "check", "--json")],
    ids=" ".join,
)
def test_every_command_refuses_a_file_that_others_may_write(
    run: Run, tmp_path: Path, args: tuple[str, ...]
) -> None:
    done = run(*args, "--config", write(tmp_path, HEAD, mode=0o666))
    assert done.returncode == 3 and done.stderr.count("\n") == 1
    assert "others may write this file" in done.stderr and "chmod go-w" in done.stderr


def test_flags_are_judged_like_the_file(run: Run, tmp_path: Path) -> None:
    path = write(tmp_path, HEAD)
    done = run("serve", "--config", path, "--listen", "0.0.0.0:7117")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("error: --listen: listens beyond loopback without TLS")


def test_check_tells_what_it_read_and_warns_of_a_literal_secret(run: Run, tmp_path: Path) -> None:
    path = write(tmp_path, f"{HEAD}agents: {{a: {{auth: {{secret: {SECRET}}}}}}}\n")
    done = run("config", "check", AGENTGW_CONFIG=str(path))
    assert (done.returncode, done.stdout) == (
        0,
        f"{path}: ok (issuers: 0, agents: 1, servers: 0, grants: 0)\n",
    )
    assert done.stderr.startswith(f"warning: {path}:3: a secret stands in the file itself")
    assert SECRET not in done.stderr
    answer = json.loads(run("config", "check", "--json", "--config", path).stdout)
    assert answer["ok"] is True and answer["agents"] == 1
    write(tmp_path, HEAD + "workers: many\n")
    failed = run("config", "check", "--json", "--config", path)
    assert failed.returncode == 3
    assert json.loads(failed.stdout) == {
        "ok": False,
        "file": str(path),
        "line": 3,
        "message": "workers should be a whole number",
        "hint": "",
    }


SECRETIVE = f"""\
agents:
  a: {{auth: {{secret: "${{env:KEY}}"}}}}
  b: {{auth: {{secret: {SECRET}}}}}
servers:
  web: {{url: https://web.example/mcp, headers: {{Authorization: "Bearer ${{env:KEY}}", X-B: {SECRET}}}}}
  open: {{url: "https://open.example/mcp?key=${{env:KEY}}"}}
  local: {{command: /bin/sh, args: ["--key=${{env:KEY}}", -x], env: {{KEY: "${{file:key}}", OWN: {SECRET}}}}}
"""


def test_show_never_shows_a_secret_and_names_each_origin(run: Run, tmp_path: Path) -> None:
    path = write(tmp_path, HEAD + SECRETIVE)
    (tmp_path / "key").write_text(SECRET[::-1])
    env = {"KEY": SECRET, "AGENTGW_LIMITS__BODY": "8MiB"}
    done = run("config", "show", "--origin", "--config", path, **env)
    assert done.returncode == 0
    assert SECRET not in done.stdout + done.stderr and SECRET[::-1] not in done.stdout
    lines = done.stdout.splitlines()
    assert f'agents.a.auth.secret = "${{env:KEY}}"  # file {path}:4' in lines
    assert f'agents.b.auth.secret = "***"  # file {path}:5' in lines
    assert f'servers.web.headers.Authorization = "${{env:KEY}}"  # file {path}:7' in lines
    assert 'servers.web.auth.headers.Authorization = "***"  # default' in lines
    assert 'servers.open.auth.audience = "https://open.example/mcp?key=${env:KEY}"  # default' in (
        lines
    )
    assert f'servers.local.args = ["--key=${{env:KEY}}","-x"]  # file {path}:9' in lines
    assert f'servers.local.env.KEY = "${{file:key}}"  # file {path}:9' in lines
    assert "limits.body = 8388608  # env AGENTGW_LIMITS__BODY" in lines
    assert 'listen = "127.0.0.1:7117"  # default' in lines
    shown = run("config", "show", "--json", "--config", path, **env).stdout
    assert json.loads(shown)["agents.b.auth.secret"] == "***" and SECRET not in shown


def test_schema_prints_the_published_schema(run: Run) -> None:
    published = Path(__file__).parents[2] / "docs" / "agentgw.schema.json"
    assert run("config", "schema").stdout == published.read_text(encoding="utf-8")


def test_without_a_file_it_says_where_it_looked(run: Run, tmp_path: Path) -> None:
    done = run("config", "check")
    assert done.returncode == 3
    assert f"{tmp_path}/.config/agentgw/agentgw.yaml: there is no such file" in done.stderr
