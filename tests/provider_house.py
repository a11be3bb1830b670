"""A gateway that trusts an identity provider under test, and the tickets server behind it; real processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import yaml

from agentgw.demo.processes import is_open
from tests.harness import ROOT, Gateway, Issuer, free_port, gateway, wait_for

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"


@dataclass(frozen=True)
class House:
    """The gateway, with what agents do at its door. `gw.issuer` is a second issuer beside the provider."""

    gw: Gateway

    def call(self, token: str, tool: str = "read_ticket", **arguments: Any) -> httpx2.Response:
        """Call a tool of tickets as whoever holds `token`."""
        return self.gw.call(f"tickets__{tool}", token, **(arguments or {"id": 7}))

    def seen(self, token: str, tool: str = "read_ticket", **arguments: Any) -> dict[str, Any]:
        """What the tool server saw of the call: subject, agent, prior_agents, scope, act."""
        answer = self.call(token, tool, **arguments)
        assert answer.status_code == 200, answer.text
        assert "result" in answer.json(), answer.text
        found: dict[str, Any] = answer.json()["result"]["structuredContent"]["seen"]
        return found

    def tools(self, token: str) -> list[str]:
        """The tools the holder of `token` may see."""
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
        opening = {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "tests", "version": "1"},
        }
        headers = {"Accept": "application/json, text/event-stream"}
        with self.gw.client(token) as client:
            first = {**message, "id": 0, "method": "initialize", "params": opening}
            opened = client.post("/mcp", json=first, headers=headers)
            assert opened.status_code == 200, opened.text
            headers["Mcp-Session-Id"] = opened.headers["mcp-session-id"]
            headers["MCP-Protocol-Version"] = "2025-11-25"
            answer = client.post("/mcp", json=message, headers=headers)
        return [tool["name"] for tool in answer.json()["result"]["tools"]]

    def agent(self, name: str) -> str:
        """The id of an agent."""
        return f"{self.gw.url}/a2a/{name}"

    def exchange(self, agent: str, token: str, **form: str) -> httpx2.Response:
        """Ask for a token at the gateway, as `agent` (RFC 8693)."""
        asked = {"grant_type": EXCHANGE, "subject_token": token, "subject_token_type": ACCESS_TOKEN}
        with self.gw.client() as client:
            return client.post(
                "/oauth/token", data={**asked, **form}, auth=(agent, f"{agent}-secret-for-tests")
            )

    def exchanged(self, agent: str, token: str, **form: str) -> str:
        """The token that the gateway gives for `token`."""
        answer = self.exchange(agent, token, **form)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    def hand_over(self, giver: str, taker: str, token: str) -> str:
        """Hand the work on; returns the taker's token for the tools."""
        handed = self.exchanged(giver, token, audience=self.agent(taker))
        return self.exchanged(taker, handed, resource=f"{self.gw.url}/mcp")

    def revoke(self, agent: str, token: str) -> None:
        """Take a token back, as `agent` (RFC 7009)."""
        with self.gw.client() as client:
            auth = (agent, f"{agent}-secret-for-tests")
            answer = client.post("/oauth/revoke", data={"token": token}, auth=auth)
        assert answer.status_code == 200, answer.text

    def lets_in(self, token: str) -> bool:
        """Whether a call with `token` reaches the tool."""
        answer = self.call(token)
        return answer.status_code == 200 and "result" in answer.json()

    def why(self, answer: httpx2.Response) -> str:
        """Why the gateway turned a token away, as its challenge tells the developer."""
        assert answer.status_code == 401, answer.text
        return str(answer.headers["www-authenticate"])


def page_settings(page: Path, replaced: Mapping[str, str]) -> dict[str, Any]:
    """The issuers, agents and grants of a page's configuration, with some texts replaced."""
    text = page.read_text("utf-8").partition("```yaml\n")[2].partition("```")[0]
    for old, new in replaced.items():
        assert old in text, old
        text = text.replace(old, new)
    found = yaml.safe_load(text)
    return {name: found[name] for name in ("issuers", "agents", "grants")}


def run_commands(
    text: str, folder: Path, replaced: Mapping[str, str], environment: Mapping[str, str]
) -> str:
    """Run a page's shell commands in `folder`, stopping at the first that fails; returns their output."""
    for old, new in replaced.items():
        text = text.replace(old, new)
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", text],
        cwd=folder,
        env={**os.environ, **environment, "PATH": programs, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextlib.contextmanager
def house(
    folder: Path, issuer: Issuer, changes: Mapping[str, Any], ready: bool = True
) -> Iterator[House]:
    """Run the tickets server and a gateway with `changes` laid over the harness's configuration."""
    port, gateway_port = free_port(), free_port()
    url = f"http://127.0.0.1:{gateway_port}"
    script = [sys.executable, "-m", "agentgw.demo.tickets", "--port", str(port), "--issuer", url]
    tickets = subprocess.Popen(script, cwd=ROOT)
    servers = {
        "tickets": {
            "url": f"http://127.0.0.1:{port}/mcp",
            "tools": {
                "list_tickets": {"scope": "tickets.read"},
                "read_ticket": {"scope": "tickets.read"},
                "close_ticket": {"scope": "tickets.write"},
            },
        }
    }
    try:
        wait_for(lambda: is_open(port), "the tickets server")
        settings = {"public_url": url, "listen": f"127.0.0.1:{gateway_port}", "servers": servers}
        with gateway(folder, issuer, {**settings, **changes}, ready) as gw:
            yield House(gw)
    finally:
        tickets.terminate()
        tickets.wait(10)
