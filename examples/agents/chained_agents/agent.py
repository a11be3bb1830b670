"""Planner hands alice's work to coder; the tool server sees the whole chain, the latest agent outermost."""

from __future__ import annotations

import asyncio
import time
import uuid

import httpx2
import jwt
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from examples.agents.laptop import laptop

ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"


def exchange(gateway: str, token: str, auth: tuple[str, str] | None, **form: str) -> str:
    """RFC 8693: one token for another."""
    form["grant_type"] = "urn:ietf:params:oauth:grant-type:token-exchange"
    form |= {"subject_token": token, "subject_token_type": ACCESS_TOKEN}
    with httpx2.Client(trust_env=False, auth=auth) as client:
        answer = client.post(f"{gateway}/oauth/token", data=form)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_token"])


def coder_proof(gateway: str, key: str) -> str:
    """RFC 7523: coder proves itself with a key of its own; there is no shared secret."""
    now = int(time.time())
    claims = {"iss": "coder", "sub": "coder", "aud": gateway, "iat": now, "exp": now + 60}
    return jwt.encode({**claims, "jti": str(uuid.uuid4())}, key, "ES256", {"kid": "coder-1"})


async def close_ticket(url: str, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        httpx2.AsyncClient(headers=headers, trust_env=False) as http,
        Client(streamable_http_client(url, http_client=http)) as mcp,
    ):
        result = await mcp.call_tool("tickets__close_ticket", {"id": 42, "reason": "solved"})
        assert not result.is_error and result.structured_content is not None
        seen = result.structured_content["seen"]
        assert seen["subject"] == "laptop|alice" and seen["scope"] == ["tickets.write"]
        assert seen["act"]["sub"].endswith("/a2a/coder")
        assert seen["act"]["act"]["sub"].endswith("/a2a/planner")
        print("tickets saw", seen["agent"], "after", seen["prior_agents"])


with laptop(__file__) as it:
    alices = it.issuer.token("alice", "planner", f"{it.gateway}/mcp")
    handed = exchange(
        it.gateway,
        alices,
        ("planner", it.planner_secret),
        audience=f"{it.gateway}/a2a/coder",
        scope="tickets.write",
    )
    coders = exchange(
        it.gateway,
        handed,
        None,
        resource=f"{it.gateway}/mcp",
        client_assertion_type="urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        client_assertion=coder_proof(it.gateway, it.coder_key),
    )
    asyncio.run(close_ticket(f"{it.gateway}/mcp", coders))
