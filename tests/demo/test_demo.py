"""`agentgw demo` as a newcomer runs it, and what it leaves behind: nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx2
import pytest

from agentgw.demo import agents
from agentgw.demo.configuration import demo_configuration
from agentgw.demo.processes import is_open
from agentgw.demo.stage import Stage
from agentgw.demo.story import tell
from tests.people import Visitor

ROOT = Path(__file__).parents[2]
STEPS = [
    "start", "list_tools", "call_stdio", "hand_over", "take_up", "allowed", "denied", "outsider",
    "stolen_at_gateway", "stolen_at_tickets", "verify_log", "tampered_log",
]  # fmt: skip


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """`tools/demo --exit --json`, with this Python's environment in the place of a new one."""
    environment = tmp_path_factory.mktemp("venv")
    (environment / "bin").symlink_to(Path(sys.executable).parent)
    (environment / ".installed-demo").touch()
    return subprocess.run(
        ["tools/demo", "--exit", "--json"],
        cwd=ROOT,
        env={**os.environ, "AGENTGW_VENV": str(environment)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_every_step_of_the_story_holds(played: subprocess.CompletedProcess[str]) -> None:
    steps = json.loads(played.stdout)
    assert [step for step in steps if not step["ok"]] == [], played.stderr
    assert [step["step"] for step in steps] == STEPS
    assert all(set(step) == {"step", "ok", "detail"} for step in steps)
    assert played.returncode == 0


def test_the_story_shows_what_it_promises(played: subprocess.CompletedProcess[str]) -> None:
    detail = {step["step"]: step["detail"] for step in json.loads(played.stdout)}
    act = json.loads(detail["allowed"].partition("\n")[2])
    assert act["sub"].endswith("/a2a/coder") and act["act"]["sub"].endswith("/a2a/planner")
    assert detail["denied"].startswith("46001 not_available") and "agentgw why" in detail["denied"]
    assert detail["stolen_at_gateway"].startswith("401")
    assert detail["stolen_at_tickets"].count("401") == 2
    assert detail["tampered_log"].startswith("FAILED, as it must: record ")


def test_the_story_prints_no_token(played: subprocess.CompletedProcess[str]) -> None:
    assert "eyJ" not in played.stdout + played.stderr


def test_a_step_that_does_not_hold_ends_the_story_and_says_so() -> None:
    def without_the_row(stage: Stage) -> str:
        return demo_configuration(stage).partition("  - id: people-decide")[0]

    with Stage(without_the_row, with_thief=True) as stage:
        last = list(tell(stage))[-1]
    assert (last.step, last.ok, last.detail) == (
        "denied", False, "tickets__close_ticket was allowed",
    )  # fmt: skip


@pytest.fixture
def staying() -> Iterator[subprocess.Popen[str]]:
    demo = subprocess.Popen(
        [sys.executable, "-m", "agentgw", "demo"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with demo:
        yield demo
        demo.kill()


def entry_of(demo: subprocess.Popen[str]) -> tuple[str, dict[str, Any]]:
    """All that was printed, and the client entry in it."""
    assert demo.stdout is not None
    printed, entry = "", ""
    for line in demo.stdout:
        printed += line
        if entry or line == "{\n":
            entry += line
        if line == "}\n":
            return printed, json.loads(entry)["mcpServers"]["agentgw-demo"]
    raise AssertionError(printed)


@pytest.mark.anyio
async def test_the_entry_it_prints_works_and_nothing_stays_behind(
    staying: subprocess.Popen[str],
) -> None:
    printed, entry = entry_of(staying)
    token = entry["headers"]["Authorization"].removeprefix("Bearer ")
    assert printed.replace(token, "").count("eyJ") == 0
    assert "tickets__read_ticket" in await agents.tool_names(entry["url"], token)

    staying.send_signal(signal.SIGTERM)
    assert staying.stdout is not None
    rest = staying.stdout.read()
    staying.wait(timeout=30)
    assert staying.returncode == 0, rest
    gateway = entry["url"].removesuffix("/mcp")
    assert f"{gateway}/account" in rest and "as alice, password " in rest
    assert not is_open(httpx2.URL(entry["url"]).port or 0)
    tickets = next(line.split()[1] for line in printed.splitlines() if "tickets http" in line)
    assert not is_open(httpx2.URL(tickets).port or 0)
    state = next(word for word in rest.split() if word.endswith("/state"))
    assert not Path(state).parent.exists()


def test_a_newcomer_signs_in_and_is_asked_for_a_client_that_registered_itself() -> None:
    with Stage(demo_configuration) as stage, Visitor() as browser:
        page = browser.open(f"{stage.gateway}/account")
        page = browser.submit(
            page, page.form("/authorize"), user="alice", password=stage.issuer.passwords["alice"]
        )
        assert "Signed in as Alice" in page.words
        client = {"client_name": "A client", "redirect_uris": ["http://127.0.0.1:9/callback"]}
        registered = browser.client.post(f"{stage.gateway}/oauth/register", json=client)
        assert registered.status_code == 201, registered.text
        asked = {
            "response_type": "code",
            "client_id": registered.json()["client_id"],
            "redirect_uri": client["redirect_uris"][0],
            "code_challenge": "c" * 43,
            "code_challenge_method": "S256",
        }
        page = browser.open(f"{stage.gateway}/oauth/authorize?{urlencode(asked)}")
        assert "Let desktop act for you?" in page.words
        assert "close_ticket" in page.words


def test_says_what_to_install_where_the_extra_is_missing() -> None:
    code = (
        "import sys; sys.modules['mcp'] = None; sys.argv = ['agentgw', 'demo', '--exit'];"
        "from agentgw.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert 'pip install "agentgw[demo]"' in done.stderr and "Traceback" not in done.stderr
