"""One delegated call, end to end, on real processes."""

from __future__ import annotations

from pathlib import Path

import httpx2

from tests.harness import Issuer, allow_all, gateway, modern_call, modern_headers


def test_a_granted_call_reaches_the_tool_and_leaves_two_records(
    tmp_path: Path, issuer: Issuer, faulty: str
) -> None:
    changes = {"servers": {"ok": {"url": f"{faulty}/mcp/ok"}}, "grants": allow_all("ok")}
    with gateway(tmp_path, issuer, changes) as gw:
        message = modern_call("ok__echo", {"text": "hello"})
        answer = httpx2.post(
            f"{gw.url}/mcp",
            json=message,
            headers=modern_headers(message, gw.token()),
            trust_env=False,
        )
        assert answer.status_code == 200, answer.text
        assert "hello" in answer.json()["result"]["content"][0]["text"]
        event_id = answer.headers["Agentgw-Event-Id"]
        assert gw.stop() == 0
        phases = [r["phase"] for r in gw.records() if r["event_id"] == event_id]
    assert phases == ["decision", "outcome"]
