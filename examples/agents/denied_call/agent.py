"""A call that policy forbids: the agent gets a code and an event id, the operator gets the reason."""

from __future__ import annotations

import asyncio

import httpx2
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client

from examples.agents.laptop import laptop


async def refused_call(url: str, token: str) -> str:
    """The event id of the refusal."""
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        httpx2.AsyncClient(headers=headers, trust_env=False) as http,
        Client(streamable_http_client(url, http_client=http)) as mcp,
    ):
        try:
            await mcp.call_tool("tickets__close_ticket", {"id": 7, "reason": "wont_fix"})
        except MCPError as error:
            refusal = error
        else:
            raise AssertionError("the call was allowed")
        assert refusal.code == 46001 and refusal.data["reason"] == "not_available"
        print("planner was told:", refusal.message)

        # Nothing reached tickets, and the next honest call works.
        ticket = await mcp.call_tool("tickets__read_ticket", {"id": 7})
        assert ticket.structured_content is not None
        assert ticket.structured_content["ticket"]["state"] == "open"
        return str(refusal.data["event_id"])


with laptop(__file__) as it:
    token = it.issuer.token("alice", "planner", f"{it.gateway}/mcp")
    event_id = asyncio.run(refused_call(f"{it.gateway}/mcp", token))

    why = it.command("why", event_id, "--config", str(it.config))
    assert why.returncode == 0, why.stderr
    assert "people-decide" in why.stdout
    print(why.stdout)
