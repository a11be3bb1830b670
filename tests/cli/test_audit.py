"""`agentgw audit` and `agentgw why`: data on stdout, talk on stderr, 6 for a log that does not hold."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from agentgw.audit.files import OsFiles
from agentgw.cli.audit import app
from agentgw.cli.why import why
from agentgw.errors import AgentgwError
from tests.audit.records import VKEY, bodies, decision, outcome, writer

RUN = CliRunner()
WHY = typer.Typer()
WHY.command()(why)


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("AGENTGW_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nothing"))
    monkeypatch.setenv("AGENTGW_STATE_DIR", str(tmp_path))
    log = writer(tmp_path / "log", OsFiles())
    log.open()
    denied = decision(2) | {"decision": "deny", "reason": "not_available", "rule": "g2"}
    hostile = decision(3) | {"name": "\x1b[2Jevil"}
    log.commit(bodies(decision(1) | {"rule": "g1"}, outcome(1), denied, hostile))
    log.checkpoint()
    log.close()
    return tmp_path


def test_verify_prints_one_object_and_exits_0_or_6(state: Path) -> None:
    held = str(state / "log" / "gw-1" / "checkpoint")
    command = ["verify", str(state / "log"), "--key", VKEY, "--checkpoint", held, "--json"]
    good = RUN.invoke(app, command)
    assert good.exit_code == 0
    assert json.loads(good.stdout) == {
        "ok": True, "records": 4, "checkpoints": 2, "first_bad": None, "assurance": "held",
        "covered_to": 4, "unknown": 1, "notes": [],
    }  # fmt: skip
    segment = state / "log" / "gw-1" / "00000001.jsonl"
    segment.write_bytes(segment.read_bytes().replace(b'"deny"', b'"fine"'))
    bad = RUN.invoke(app, command)
    assert bad.exit_code == 6
    first_bad = json.loads(bad.stdout)["first_bad"]
    assert (first_bad["log"], first_bad["seq"], first_bad["id"]) == ("gw-1", 2, "d-2")
    assert "FAILED: log gw-1, record 2 (d-2)" in RUN.invoke(app, command[:-1]).stdout


def test_verify_without_key_and_checkpoint_says_what_it_cannot_know(state: Path) -> None:
    result = RUN.invoke(app, ["verify"])
    assert result.exit_code == 0
    assert "signatures are unchecked" in result.stderr
    assert "truncation cannot be excluded" in result.stderr
    assert result.stdout.startswith("ok: 4 records")


def test_verify_refuses_a_key_that_is_none(state: Path) -> None:
    assert RUN.invoke(app, ["verify", "--key", "nonsense"]).exit_code == 2


def test_search_and_tail_print_records(state: Path) -> None:
    denied = RUN.invoke(app, ["search", "--decision", "deny", "--json"]).stdout
    assert json.loads(denied)["event_id"] == "e-2"
    assert RUN.invoke(app, ["tail", "-n", "1", "--json"]).stdout.count("\n") == 1
    assert "coder < acme|alice" in RUN.invoke(app, ["tail"]).stdout


def test_a_search_for_what_cannot_be_is_wrong_usage_and_one_without_a_find_says_so(
    state: Path,
) -> None:
    for wrong in (["--decision", "denied"], ["--since", "yesterday"]):
        assert RUN.invoke(app, ["search", *wrong]).exit_code == 2
    nobody = RUN.invoke(app, ["search", "--user", "acme|nobody"])
    assert (nobody.exit_code, nobody.stdout) == (0, "")
    assert "no record fits" in nobody.stderr


def test_since_is_one_instant_however_it_is_written(state: Path) -> None:
    found = RUN.invoke(app, ["search", "--json"]).stdout
    when = datetime.fromisoformat(json.loads(found.splitlines()[0])["time"])
    second = when.replace(microsecond=0, tzinfo=None)
    for since in (f"{second}Z", f"{second}", f"{second + timedelta(hours=2)}+02:00"):
        assert RUN.invoke(app, ["search", "--json", "--since", since]).stdout == found
    later = f"{second + timedelta(days=1)}Z"
    assert RUN.invoke(app, ["search", "--since", later]).stdout == ""


def test_names_that_others_chose_do_not_reach_the_terminal_raw(state: Path) -> None:
    for result in (RUN.invoke(app, ["tail"]), RUN.invoke(app, ["show", "e-3"])):
        assert "evil" in result.stdout
        assert "\x1b" not in result.stdout


def test_show_prints_both_records_of_an_event(state: Path) -> None:
    lines = RUN.invoke(app, ["show", "e-1", "--json"]).stdout.splitlines()
    assert [json.loads(line)["phase"] for line in lines] == ["decision", "outcome"]
    assert isinstance(RUN.invoke(app, ["show", "e-none"]).exception, AgentgwError)


def test_why_explains_a_refusal_and_an_unknown_outcome(state: Path) -> None:
    denied = RUN.invoke(WHY, ["e-2"])
    assert "deny: not_available" in denied.stdout
    assert "g2" in denied.stdout
    assert "no grant lets this user" in denied.stdout
    assert "rules are shown by id only" in denied.stderr
    assert "outcome   unknown" in RUN.invoke(WHY, ["e-3"]).stdout
    assert "outcome   ok" in RUN.invoke(WHY, ["e-1"]).stdout


def test_why_tells_which_check_refused_an_exchange_and_names_no_rule(tmp_path: Path) -> None:
    log = writer(tmp_path / "log", OsFiles())
    log.open()
    error = "the subject_token was refused: the token has expired"
    refused = decision(1) | {
        "decision": "deny", "reason": "invalid_request", "rule": "-", "policy_version": None,
        "chain": [], "presenter": "https://gw/a2a/planner", "detail": {"error": error},
    }  # fmt: skip
    log.commit(bodies(refused))
    log.close()
    told = RUN.invoke(WHY, ["e-1", "--state-dir", str(tmp_path)]).stdout
    assert f"because   {error}" in told and "client    https://gw/a2a/planner" in told
    assert "no row matched" not in told


def test_the_records_are_found_by_flag_variable_configuration_or_default(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = state / "log"
    config = state / "agentgw" / "agentgw.yaml"
    config.parent.mkdir()
    config.write_text("version: 1\npublic_url: http://127.0.0.1:7117\nstate_dir: ..\n")
    config.chmod(0o600)
    empty = str(state / "agentgw")

    def found(*options: str) -> bool:
        result = RUN.invoke(app, ["verify", *options])
        assert isinstance(result.exception, AgentgwError | None)
        return "ok: 4 records" in result.stdout

    monkeypatch.setenv("AGENTGW_STATE_DIR", empty)
    assert not found() and not found("--config", str(config))
    assert found("--state-dir", str(state))
    monkeypatch.setenv("AGENTGW_STATE_DIR", "..")
    assert found("--config", str(config))
    monkeypatch.delenv("AGENTGW_STATE_DIR")
    assert found("--config", str(config)) and not found("--state-dir", empty)
    monkeypatch.setenv("XDG_STATE_HOME", str(state / "xdg"))
    assert not found()
    (state / "xdg").mkdir()
    (state / "xdg" / "agentgw").mkdir()
    (state / "xdg" / "agentgw" / "log").symlink_to(log)
    assert found()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(state))
    monkeypatch.delenv("XDG_STATE_HOME")
    assert found()
    for command in (["tail"], ["search"], ["show", "e-1"]):
        assert RUN.invoke(app, [*command, "--config", str(config)]).stdout
    monkeypatch.setenv("AGENTGW_CONFIG", str(state / "absent.yaml"))
    assert "no such file" in str(RUN.invoke(app, ["verify"]).exception)


def test_why_shows_the_rule_of_the_configuration(state: Path) -> None:
    config = state / "agentgw.yaml"
    config.write_text(
        "version: 1\npublic_url: http://127.0.0.1:7117\ndev: true\n"
        "servers: {tickets: {url: 'http://127.0.0.1:9/mcp', auth: {mode: none}}}\n"
        "grants:\n  - {users: ['*'], tools: ['tickets/*']}\n"
        "  - {tools: ['tickets/close_*'], deny: true}\n"
    )
    config.chmod(0o600)
    result = RUN.invoke(WHY, ["e-2", "--config", str(config), "--json"])
    assert json.loads(result.stdout)["rules"]["g2"]["deny"] is True
