"""`agentgw doctor` and `config check --online`: each fault is found and told with its cure, no secret is."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.harness import Gateway, Issuer, base_config, faulty_server, free_port
from tests.harness import gateway as run_gateway

from .conftest import Run

SECRET = "hunter2-correct-horse-battery"


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    running = Issuer().start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def gw(issuer: Issuer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that ran and was stopped: its state is there."""
    folder = tmp_path_factory.mktemp("gw")
    with run_gateway(folder, issuer, {}) as running:
        with running.client() as client:
            client.post("/oauth/token", data={"grant_type": "x"})
        running.stop()
        yield running


class Doctor:
    """Runs it over a configuration of its own."""

    def __init__(self, run: Run, folder: Path, config: dict[str, Any]) -> None:
        self.run, self.folder, self.config = run, folder, config
        self.text, self.code = "", 0

    def look(self, *args: str, **env: str) -> list[dict[str, Any]]:
        file = self.folder / "agentgw.yaml"
        file.write_text(json.dumps(self.config))
        file.chmod(0o600)
        path = os.environ["PATH"]
        done = self.run("doctor", "--config", file, "--json", *args, **{"PATH": path, **env})
        self.code, self.text = done.returncode, done.stdout + done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)["findings"]
        assert json.loads(done.stdout)["ok"] == (done.returncode == 0)
        assert all(each["why"] and each["fix"] for each in found if each["level"] != "ok"), found
        return found

    def one(self, check: str, name: str = "", *args: str, **env: str) -> dict[str, Any]:
        """The last finding about this."""
        found = self.look(*args, **env)
        return [each for each in found if (each["check"], each["name"]) == (check, name)][-1]


@pytest.fixture
def doctor(run: Run, tmp_path: Path, issuer: Issuer) -> Doctor:
    url = f"http://127.0.0.1:{free_port()}"
    config = base_config(issuer, url, tmp_path)
    del config["agents"]["planner"]["auth"], config["agents"]["coder"]["auth"]
    return Doctor(run, tmp_path, {**config, "grants": [{"users": ["*"], "tools": ["*/*"]}]})


class ToolServer(NamedTuple):
    """One over HTTP, and the file of what it was sent."""

    url: str
    record: Path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ToolServer]:
    record = tmp_path / "record.jsonl"
    with faulty_server("--record", str(record)) as url:
        yield ToolServer(url, record)


def test_a_fresh_installation_is_fine_and_nothing_is_made(doctor: Doctor, tmp_path: Path) -> None:
    found = doctor.look()
    assert doctor.code == 0, doctor.text
    told = {each["check"]: each for each in found}
    assert "its keys can be had" in told["issuer"]["what"]
    assert told["dev"]["level"] == "warning" and told["public_url"]["level"] == "ok"
    assert "nobody can sign in" in told["login"]["what"]
    assert "MiB free" in told["disk"]["what"] and "nobody answers" in told["gateway"]["what"]
    assert not (tmp_path / "state").exists()


def test_people_get_a_line_each_and_a_sum(run: Run, doctor: Doctor, tmp_path: Path) -> None:
    doctor.look()
    done = run("doctor", "--config", tmp_path / "agentgw.yaml", PATH=os.environ["PATH"])
    assert done.returncode == 0 and done.stderr == "0 errors, 1 warnings\n"
    assert "warning  dev: dev: true is on: issuers may be plain http" in done.stdout
    assert all(line.split()[0] in ("ok", "warning") for line in done.stdout.splitlines())


def test_a_file_that_is_wrong_is_exit_3(doctor: Doctor) -> None:
    doctor.config["isuers"] = {}
    finding = doctor.one("config")
    assert doctor.code == 3 and finding["level"] == "error"
    assert "unknown key 'isuers'" in finding["what"] and "issuers" in finding["fix"]


def test_a_missing_command_is_exit_3(doctor: Doctor) -> None:
    doctor.config["servers"] = {"time": {"command": "no-such-program"}}
    assert "'no-such-program'" in doctor.one("config")["what"] and doctor.code == 3


def test_an_issuer_that_is_away_is_exit_5(doctor: Doctor) -> None:
    doctor.config["issuers"]["away"] = {
        "issuer": f"http://127.0.0.1:{free_port()}", "audiences": ["x"],
    }  # fmt: skip
    finding = doctor.one("issuer", "away")
    assert doctor.code == 5 and "cannot be reached (ConnectError)" in finding["what"]
    assert doctor.one("issuer", "laptop")["level"] == "ok"
    found = doctor.look("--offline")
    assert doctor.code == 0 and not [each for each in found if each["check"] == "issuer"]


def test_a_server_that_takes_whoever_comes_is_a_warning(doctor: Doctor, server: ToolServer) -> None:
    doctor.config["servers"] = {"spy": {"url": f"{server.url}/mcp/ok"}}
    finding = doctor.one("server", "spy")
    assert doctor.code == 0 and finding["level"] == "warning"
    assert "without any credentials" in finding["what"] and "a token of ours" in finding["what"]
    doctor.config["servers"] = {"spy": {"url": f"{server.url}/mcp/ok", "auth": {"mode": "none"}}}
    assert doctor.one("server", "spy")["level"] == "ok"
    assert "authorization" not in server.record.read_text().lower()


def test_a_server_that_asks_for_credentials_is_fine_if_it_gets_some(
    doctor: Doctor, server: ToolServer
) -> None:
    doctor.config["servers"] = {"spy": {"url": f"{server.url}/mcp/401"}}
    finding = doctor.one("server", "spy")
    assert finding["level"] == "ok" and "asks for credentials (HTTP 401)" in finding["what"]
    doctor.config["servers"]["spy"]["headers"] = {"X-Key": "wrong"}
    finding = doctor.one("server", "spy")
    assert finding["level"] == "error" and doctor.code == 1
    assert "refused the gateway's credentials" in finding["what"]


def test_a_server_that_is_away_is_exit_5(doctor: Doctor) -> None:
    doctor.config["servers"] = {"away": {"url": f"http://127.0.0.1:{free_port()}/mcp"}}
    assert doctor.one("server", "away")["level"] == "error" and doctor.code == 5


def test_headers_are_shown_by_name_only(doctor: Doctor, server: ToolServer) -> None:
    doctor.config["servers"] = {
        "spy": {"url": f"{server.url}/mcp/ok", "headers": {"X-Key": "${env:KEY}"}}
    }
    finding = doctor.one("server", "spy", KEY=SECRET)
    assert "X-Key" in finding["what"] and SECRET not in doctor.text
    assert SECRET in server.record.read_text()


def test_no_sandbox_is_written_out(doctor: Doctor) -> None:
    doctor.config["servers"] = {"time": {"command": sys.executable}}
    finding = doctor.one("server", "time")
    assert finding["level"] == "warning" and finding["what"] == "sandbox none"
    assert "whatever the gateway's own user may" in finding["why"] and doctor.code == 0


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_a_sandbox_is_tried(doctor: Doctor) -> None:
    doctor.config["servers"] = {"time": {"command": sys.executable, "sandbox": "bwrap"}}
    assert "sandbox bwrap works" in doctor.one("server", "time")["what"]
    absent = {"kind": "bwrap", "read": ["/no/such/folder"]}
    doctor.config["servers"]["time"]["sandbox"] = absent
    finding = doctor.one("server", "time")
    assert doctor.code == 1 and "/no/such/folder" in finding["why"]


def test_a_state_that_others_may_enter_is_a_warning(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o755)
    (tmp_path / "state").chmod(0o755)
    finding = doctor.one("state")
    assert finding["level"] == "warning" and "chmod 700" in finding["fix"]


def test_what_a_gateway_left_is_read(doctor: Doctor, gw: Gateway) -> None:
    doctor.config["state_dir"] = str(gw.state)
    told = {each["check"]: each for each in doctor.look("--offline")}
    assert doctor.code == 0, doctor.text
    assert "ES256" in told["keys"]["what"] and "0 hours old" in told["keys"]["what"]
    assert "its end holds" in told["log"]["what"] and told["log"]["name"] == "gw-1"
    assert "can be read" in told["database"]["what"] and "mode 700" in told["state"]["what"]


@pytest.fixture
def copy(doctor: Doctor, gw: Gateway, tmp_path: Path) -> Path:
    """The state of the stopped gateway, to be damaged."""
    state = tmp_path / "copied"
    shutil.copytree(gw.state, state)
    doctor.config["state_dir"] = str(state)
    return state


def test_a_log_that_was_altered_at_its_end_is_exit_6(doctor: Doctor, copy: Path) -> None:
    segment = sorted((copy / "log" / "gw-1").glob("*.jsonl"))[-1]
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join(lines[:-1]))
    finding = doctor.one("log", "gw-1", "--offline")
    assert doctor.code == 6 and "records are missing" in finding["what"]
    segment.write_bytes(b"".join(lines[:-1]) + lines[-1].replace(b'"time":"2', b'"time":"1'))
    assert "not those that" in doctor.one("log", "gw-1", "--offline")["what"] and doctor.code == 6


def test_a_checkpoint_of_somebody_else_is_exit_6(doctor: Doctor, copy: Path) -> None:
    checkpoint = copy / "log" / "gw-1" / "checkpoint"
    text = checkpoint.read_text()
    checkpoint.write_text(text.replace("gw-1", "gw-2", 1))
    finding = doctor.one("log", "gw-1", "--offline")
    assert doctor.code == 6 and "does not hold" in finding["what"]


def test_keys_that_others_may_read_are_an_error(doctor: Doctor, copy: Path) -> None:
    (copy / "keys" / "tokens.json").chmod(0o644)
    assert doctor.one("keys", "", "--offline")["level"] == "error" and doctor.code == 1


def test_a_database_that_is_none_is_an_error(doctor: Doctor, copy: Path) -> None:
    (copy / "agentgw.db").write_bytes(b"no database at all" * 400)
    for journal in copy.glob("agentgw.db-*"):
        journal.unlink()
    assert doctor.one("database", "", "--offline")["level"] == "error" and doctor.code == 1


def test_config_check_online_asks_the_same(run: Run, doctor: Doctor, tmp_path: Path) -> None:
    doctor.look("--offline")
    file, path = tmp_path / "agentgw.yaml", os.environ["PATH"]
    done = run("config", "check", "--config", file, "--online", PATH=path)
    assert done.returncode == 0 and "issuer laptop: " in done.stdout
    doctor.config["servers"] = {"away": {"url": f"http://127.0.0.1:{free_port()}/mcp"}}
    doctor.look("--offline")
    done = run("config", "check", "--config", file, "--online", "--json", PATH=path)
    answer = json.loads(done.stdout)
    assert done.returncode == 5 and answer["ok"] is False and answer["issuers"] == 1
    assert [each["name"] for each in answer["findings"] if each["level"] == "error"] == ["away"]
