"""Revocation is looked at once more, after the decision is on disk and before anything is sent."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx2
import pytest

from agentgw.app.composition import App
from agentgw.app.opening import build
from agentgw.config import Config
from agentgw.core.revocation import Revocation, foreign_key
from tests.harness import (
    Issuer,
    allow_all,
    base_config,
    faulty_server,
    modern_call,
    modern_headers,
)

pytestmark = pytest.mark.anyio
HERE = "http://127.0.0.1:7117"
ECHO = modern_call("time__echo", {"text": "x"})


def revoke_once_recorded(app: App, change: Revocation) -> None:
    """Let `change` arrive while the decision is being flushed."""
    enqueue = app.audit.enqueue

    def flush(record: dict[str, object]) -> asyncio.Future[int]:
        durable = enqueue(record)
        if record["method"] == "tools/call":
            durable.add_done_callback(lambda _: app.revoked.apply([change]))
        return durable

    app.audit.enqueue = flush  # type: ignore[method-assign]


@pytest.mark.parametrize("kind", ["token", "subject", "agent"])
async def test_what_was_revoked_while_the_record_was_written_is_not_sent(
    tmp_path: Path, kind: str
) -> None:
    canary = tmp_path / "canary.jsonl"
    canary.touch()
    issuer = Issuer().start()
    with faulty_server("--record", str(canary)) as url:
        config = base_config(issuer, HERE, tmp_path)
        config["servers"] = {"time": {"url": f"{url}/mcp/ok?as=time"}}
        config["grants"] = allow_all("time")
        app = await build(Config.model_validate(config))
        try:
            await app.warm_up()
            token = issuer.token(f"{HERE}/mcp", jti="idp-1")
            headers = modern_headers(ECHO, token)
            transport = httpx2.ASGITransport(app.site)
            async with httpx2.AsyncClient(transport=transport, base_url=HERE) as client:
                honest = await client.post("/mcp", json=ECHO, headers=headers)
                assert "result" in honest.json(), honest.text
                keys = {
                    "token": foreign_key(issuer.url, "idp-1"),
                    "subject": "laptop|alice",
                    "agent": f"{HERE}/a2a/planner",
                }
                change = Revocation(1, kind, keys[kind], None)  # type: ignore[arg-type]
                revoke_once_recorded(app, change)
                before = calls(canary)
                refused = await client.post("/mcp", json=ECHO, headers=headers)
                assert refused.json()["error"]["code"] == 46003, refused.text
                assert calls(canary) == before == 1
        finally:
            await app.close()
            issuer.stop()
    lines = b"".join(file.read_bytes() for file in (tmp_path / "state/log").glob("*/*.jsonl"))
    mine = [
        record
        for record in map(json.loads, lines.splitlines())
        if record["event_id"] == refused.headers["agentgw-event-id"]
    ]
    assert [(r["phase"], r.get("decision"), r.get("outcome")) for r in mine] == [
        ("decision", "allow", None), ("outcome", None, "refused"),
    ]  # fmt: skip


def calls(canary: Path) -> int:
    """How many tool calls reached the server."""
    return canary.read_bytes().count(b'tools/call\\"')
