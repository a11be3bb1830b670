"""The sample of docs/tool-servers.md, served and called through a gateway."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest

from agentgw.demo import agents
from agentgw.demo.processes import free_port, is_open
from agentgw.demo.stage import Stage

DOCUMENT = Path(__file__).parents[2] / "docs" / "tool-servers.md"
CONFIGURATION = """
version: 1
dev: true
public_url: ${env:GATEWAY}
listen: ${env:LISTEN}
state_dir: ${env:STATE}
issuers: {laptop: {issuer: "${env:ISSUER}", audiences: ["${env:GATEWAY}/mcp"]}}
agents: {planner: {clients: [{issuer: laptop, client_id: planner, confidential: true}]}}
servers: {greeter: {url: "URL"}}
grants:
  - {users: ["laptop|alice"], tools: ["greeter/*"]}
  - {agents: [planner], tools: ["greeter/*"]}
"""


def sample() -> str:
    (found,) = re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text("utf-8"), re.M | re.S)
    return str(found)


def test_the_sample_is_short() -> None:
    assert len([line for line in sample().splitlines() if line.strip()]) <= 20


@pytest.mark.anyio
async def test_the_sample_greets_whom_the_gateway_names_and_nobody_else(tmp_path: Path) -> None:
    port, gateway_port = free_port(), free_port()
    url = f"http://127.0.0.1:{port}/mcp"
    text = sample().replace("https://greeter.example.com/mcp", url)
    text = text.replace("https://gw.example.com", f"http://127.0.0.1:{gateway_port}")
    (tmp_path / "greeter.py").write_text(text, "utf-8")
    greeter = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "greeter:app", "--port", str(port)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 30
        while not is_open(port) and greeter.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        configuration = CONFIGURATION.replace("URL", url)
        with Stage(lambda stage: configuration, port=gateway_port) as stage:
            token = stage.issuer.token("alice", "planner", f"{stage.gateway}/mcp")
            answer = await agents.call_tool(f"{stage.gateway}/mcp/greeter", token, "greet")
            text = answer.content[0].model_dump()["text"]
            assert text == f"hello laptop|alice, through {stage.gateway}/a2a/planner"
            direct = httpx2.post(
                url, json={}, headers={"Authorization": f"Bearer {token}"}, trust_env=False
            )
            assert direct.status_code == 401
    finally:
        greeter.terminate()
        greeter.wait()
