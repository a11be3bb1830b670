"""The README's way to read and prove the record, on the record of two calls."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agentgw.demo import agents
from agentgw.demo.stage import Stage
from tests.docs.test_readme import ROOT, commands

CONFIGURATION = ROOT / "examples" / "agents" / "denied_call" / "agentgw.yaml"


async def two_calls(stage: Stage) -> str:
    """One call that is allowed and one that is not; the latter's event id."""
    mcp = f"{stage.gateway}/mcp"
    token = stage.issuer.token("alice", "planner", mcp)
    await agents.call_tool(mcp, token, "tickets__read_ticket", {"id": 42})
    with pytest.raises(Exception) as raised:
        await agents.call_tool(
            mcp, token, "tickets__close_ticket", {"id": 42, "reason": "wont_fix"}
        )
    return str(agents.refusal_in(raised.value).data["event_id"])


def held_checkpoint(stage: Stage) -> Path:
    """A copy of the checkpoint, once it covers everything there is now."""
    log = stage.state / "log" / "gw-1"
    records = sum(path.read_bytes().count(b"\n") for path in log.glob("*.jsonl"))
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        checkpoint = log / "checkpoint"
        if checkpoint.exists() and int(checkpoint.read_text().split("\n")[1]) >= records:
            return Path(shutil.copy(checkpoint, stage.folder / "held"))
        time.sleep(0.05)
    raise AssertionError("no checkpoint came")


@pytest.mark.anyio
async def test_the_record_is_read_as_the_readme_shows() -> None:
    with Stage(lambda stage: CONFIGURATION.read_text("utf-8")) as stage:
        event_id = await two_calls(stage)
        vkey = (stage.state / "keys" / "checkpoints.vkey").read_text().strip()
        values = {
            "EVENT_ID": event_id,
            "acme|alice": "laptop|alice",
            "VKEY": vkey,
            "FILE": str(held_checkpoint(stage)),
        }
        environment = {
            **os.environ,
            **stage.environment,
            "AGENTGW_CONFIG": str(stage.config),
            "AGENTGW_STATE_DIR": str(stage.state),
        }

        def typed(start: str) -> str:
            (command,) = [command for command in commands() if command.startswith(start)]
            words = [values.get(word, word) for word in shlex.split(command)[1:]]
            return subprocess.run(
                [sys.executable, "-m", "agentgw", *words],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
                timeout=30,
            ).stdout

        assert "tickets/read_ticket" in typed("agentgw audit tail")
        (found,) = typed("agentgw audit search").splitlines()
        assert event_id in found and "not_available" in found
        assert "people-decide" in typed("agentgw why")
        assert "assurance held" in typed("agentgw audit verify")

        against = ["--key", vkey, "--checkpoint", values["FILE"]]
        second = subprocess.run(
            [sys.executable, "tools/verify_log.py", str(stage.state / "log"), *against],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert second.returncode == 0, second.stdout + second.stderr
