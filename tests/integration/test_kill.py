"""kill -9 at any moment: no upstream call without its decision, and a log that still verifies."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from tests.harness import Gateway as GatewayProcess
from tests.harness import Issuer, allow_all, base_config, faulty_server, free_port
from tests.integration.load import assert_log_holds, assert_on_record, calling

SEED = 20261123
"""When it is killed; `--kill-seed` gives another."""
KILLS_PER_LOG = 25
"""So that a long run does not read an ever longer log at each restart."""


def killed_under_load(folder: Path, issuer: Issuer, kills: int, chance: random.Random) -> int:
    """Kill one gateway `kills` times while agents call; how many requests reached the tool server."""
    folder.mkdir()
    canary = folder / "canary.jsonl"
    with faulty_server("--record", str(canary)) as upstream:
        config = base_config(issuer, f"http://127.0.0.1:{free_port()}", folder)
        config |= {"servers": {"ok": {"url": f"{upstream}/mcp/ok"}}, "grants": allow_all("ok")}
        gateway = GatewayProcess(folder, issuer, config)
        gateway.write()
        with calling(gateway) as callers:
            for _ in range(kills):
                gateway.start(ready=False)
                assert gateway.process is not None
                if chance.random() < 0.2:
                    time.sleep(chance.uniform(0.5, 1.2))  # while it starts, perhaps
                else:
                    callers.more()
                    assert_log_holds(gateway)
                    time.sleep(chance.uniform(0, 0.3))
                gateway.process.send_signal(signal.SIGKILL)
                gateway.process.wait(10)
            gateway.start(ready=False)
            callers.more()
        assert gateway.stop() == 0, gateway.output
        assert_log_holds(gateway)
        return assert_on_record(gateway, canary, callers.answers)


def kill_again_and_again(folder: Path, issuer: Issuer, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    for batch in range(0, kills, KILLS_PER_LOG):
        count = min(KILLS_PER_LOG, kills - batch)
        reached = killed_under_load(folder / str(batch), issuer, count, chance)
        assert reached > count, "that was no load"


def test_no_call_and_no_answer_is_without_its_decision_after_kills(
    tmp_path: Path, issuer: Issuer, request: pytest.FixtureRequest
) -> None:
    given = request.config.getoption
    kill_again_and_again(tmp_path, issuer, given("--kills", 5), given("--kill-seed", None) or SEED)


@pytest.mark.slow
def test_no_call_and_no_answer_is_without_its_decision_after_fifty_kills(
    tmp_path: Path, issuer: Issuer
) -> None:
    kill_again_and_again(tmp_path, issuer, 50, SEED)
