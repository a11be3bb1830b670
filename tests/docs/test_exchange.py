"""docs/exchange.md: its command gets a hand-over, and shows neither secret nor token to other processes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.harness import ROOT, Issuer, gateway
from tests.sts.sts_under_test import claims_of

COMMAND = next(
    block
    for block in re.findall(
        r"^```sh\n(.*?)^```$", (ROOT / "docs/exchange.md").read_text("utf-8"), re.M | re.S
    )
    if "curl" in block
)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_its_command_gets_a_hand_over(tmp_path: Path) -> None:
    issuer = Issuer().start()
    try:
        with gateway(tmp_path, issuer, {}) as gw:
            (tmp_path / "alice.token").write_text(gw.token())
            done = subprocess.run(
                ["sh", "-c", COMMAND.replace("https://gw.example.com", gw.url)],
                cwd=tmp_path,
                env={"PATH": "/usr/bin:/bin", "PLANNER_SECRET": "planner-secret-for-tests"},
                capture_output=True,
                text=True,
                timeout=30,
                check=True,
            )
            answer = json.loads(done.stdout)
            claims = claims_of(answer["access_token"])
            assert claims["aud"] == f"{gw.url}/a2a/coder" == claims["may_act"]["sub"]
            assert claims["act"]["sub"] == f"{gw.url}/a2a/planner"
    finally:
        issuer.stop()


def test_its_command_keeps_secret_and_token_out_of_the_arguments() -> None:
    assert "$(" not in COMMAND and "-u " not in COMMAND
