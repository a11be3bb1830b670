"""A call must ask: no form of a message may slip past policy on its way to a server that would act on it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentgw.errors import MalformedMessage
from agentgw.mcp.message import parse_message
from tests.harness import Issuer, faulty_server, gateway, wait_for

HEADERS = {
    "Accept": "application/json, text/event-stream",
    "Content-Type": "application/json",
    "MCP-Protocol-Version": "2025-11-25",
}


def test_refuses_a_call_without_an_id() -> None:
    for method in ("tools/call", "resources/read", "initialize", "x"):
        body = {"jsonrpc": "2.0", "method": method, "params": {"name": "t", "uri": "u:x"}}
        with pytest.raises(MalformedMessage, match="without an id"):
            parse_message(json.dumps(body).encode())


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    running = Issuer().start()
    yield running
    running.stop()


def test_a_denied_call_sent_as_a_notification_reaches_no_server(
    tmp_path: Path, issuer: Issuer
) -> None:
    canary = tmp_path / "canary.jsonl"
    with faulty_server("--record", str(canary)) as tools:
        url = f"{tools}/mcp/ok?era=handshake"
        only_echo = [{"users": ["*"], "agents": ["*"], "tools": ["old/echo"]}]
        changes = {"servers": {"old": {"url": url}}, "grants": only_echo}
        with gateway(tmp_path, issuer, changes) as gw, gw.client() as client:
            path = f"{gw.url}/mcp/old"
            headers = {**HEADERS, "Authorization": f"Bearer {gw.token()}"}
            hello = {
                "protocolVersion": "2025-11-25",
                "capabilities": {},
                "clientInfo": {"name": "t", "version": "1"},
            }
            opened = client.post(
                path,
                headers=headers,
                json={"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello},
            )
            assert opened.status_code == 200, opened.text
            if "mcp-session-id" in opened.headers:
                headers["Mcp-Session-Id"] = opened.headers["mcp-session-id"]
            call = {"jsonrpc": "2.0", "method": "tools/call", "params": {"name": "fail"}}
            assert client.post(path, headers=headers, json=call).status_code == 400
            wait_for(canary.exists, "the tool server's own record")
            refused = client.post(path, headers=headers, json={**call, "id": 2})
            assert refused.json()["error"]["code"] == 46001
        seen = [json.loads(line) for line in canary.read_text().splitlines()]
    assert not [line for line in seen if "tools/call" in json.dumps(line.get("body", ""))]


def test_refuses_names_nobody_should_write_down() -> None:
    for params in ({"name": "x" * 1025}, {"uri": "u" * 8193}, {"ref": {"name": "x" * 1025}}):
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        with pytest.raises(MalformedMessage, match="longer than"):
            parse_message(json.dumps(body).encode())
