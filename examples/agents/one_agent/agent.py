"""One user, one agent, one tool: the tool server learns both names, and never sees the user's token."""

from __future__ import annotations

import asyncio

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from examples.agents.laptop import laptop


async def story(url: str, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        httpx2.AsyncClient(headers=headers, trust_env=False) as http,
        Client(streamable_http_client(url, http_client=http)) as mcp,
    ):
        names = [tool.name for tool in (await mcp.list_tools()).tools]
        assert sorted(names) == ["tickets__list_tickets", "tickets__read_ticket"], names

        result = await mcp.call_tool("tickets__read_ticket", {"id": 42})
        assert not result.is_error and result.structured_content is not None
        seen = result.structured_content["seen"]
        assert seen["subject"] == "laptop|alice"
        assert seen["agent"].endswith("/a2a/planner") and seen["prior_agents"] == []
        print("tickets answered", result.structured_content["ticket"])
        print("and saw", seen["agent"], "acting for", seen["subject"])


with laptop(__file__) as it:
    # What the agent planner holds once alice has signed in to it.
    token = it.issuer.token("alice", "planner", f"{it.gateway}/mcp")
    asyncio.run(story(f"{it.gateway}/mcp", token))
