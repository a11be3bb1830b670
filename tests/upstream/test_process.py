"""A call to a child process: what it says in between is kept for the agent, but not without bound."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import pytest

from agentgw.mcp.message import Message
from agentgw.upstream.link import Outbound
from agentgw.upstream.process import HELD_PROGRESS, ProcessLink
from agentgw.upstream.stdio import StdioServer

pytestmark = pytest.mark.anyio

FLOODING = """
import json, sys
def send(message): print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)
for line in sys.stdin:
    message = json.loads(line)
    if message.get("method") == "server/discover":
        about = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}
        send({"id": message["id"], "result": {"resultType": "complete", **about}})
    elif message.get("method") == "tools/call":
        arguments = message["params"]["arguments"]
        for n in range(arguments["steps"]):
            params = {"progressToken": message["params"]["_meta"]["progressToken"], "progress": n}
            params["message"] = "p" * arguments["size"]
            send({"method": "notifications/progress", "params": params})
        send({"id": message["id"], "result": {"resultType": "complete", "content": []}})
"""


async def no_token(method: str, params: Any) -> None:
    return None


async def flooded(steps: int, size: int, read_on: bool) -> list[dict[str, Any]]:
    """What an agent gets that waits for the server to have said everything, unless it may `read_on`."""
    server = StdioServer(sys.executable, ("-c", FLOODING), name="flood")
    link = ProcessLink("flood", server, client={"name": "t", "version": "1"}, timeout=10)
    params = {
        "name": "x",
        "arguments": {"steps": steps, "size": size},
        "_meta": {"progressToken": "t"},
    }
    document = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}
    message = Message("request", 7, "tools/call", params, document)
    deadline = asyncio.get_running_loop().time() + 20
    out = Outbound(message, "modern", "2026-07-28", None, no_token, None, deadline)
    try:
        reply = await link.send(out)
        assert reply.stream is not None
        async with asyncio.timeout(20):
            while server.busy and not read_on:
                await asyncio.sleep(0.01)
            events = b"".join([event async for event in reply.stream])
    finally:
        await link.close()
    return [json.loads(line[6:]) for line in events.splitlines() if line.startswith(b"data: ")]


async def test_progress_nobody_reads_is_dropped_beyond_a_bound_and_the_response_is_not() -> None:
    *progress, final = await flooded(steps=100, size=60_000, read_on=False)
    assert sum(len(json.dumps(message)) for message in progress[1:]) <= HELD_PROGRESS
    assert [message["params"]["progress"] for message in progress] == list(range(len(progress)))
    assert 10 < len(progress) < 30
    assert final["id"] == 7
    assert final["result"] == {"resultType": "complete", "content": []}


async def test_many_small_notifications_are_bounded_too() -> None:
    *progress, final = await flooded(steps=20_000, size=0, read_on=False)
    assert len(progress) < 10_000
    assert final["id"] == 7


async def test_progress_that_is_read_as_it_comes_arrives_whole() -> None:
    *progress, final = await flooded(steps=30, size=1000, read_on=True)
    assert [message["params"]["progress"] for message in progress] == list(range(30))
    assert final["id"] == 7
