"""What agents do: get their tokens at the gateway, and call tools through it with the official client."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import Any

import httpx2
import jwt
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult

from agentgw.demo.stage import Stage

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 (a name)
JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class ExchangeRefused(Exception):
    """The token endpoint said no; the text is its error and description."""


def hand_over(stage: Stage, token: str) -> str:
    """Planner turns the user's token into one that only coder can take up (RFC 8693)."""
    form = {"audience": f"{stage.gateway}/a2a/coder", "scope": "tickets.write"}
    return _exchange(stage, token, form, auth=("planner", stage.planner_secret))


def take_up(stage: Stage, token: str) -> str:
    """Coder, with its own key, turns the hand-over into a token for the tools (RFC 7523)."""
    now = int(time.time())
    proof = {"iss": "coder", "sub": "coder", "aud": stage.gateway, "iat": now, "exp": now + 60}
    assertion = jwt.encode(
        {**proof, "jti": secrets.token_urlsafe(16)},
        stage.coder_key,
        "ES256",
        headers={"kid": "coder-1"},
    )
    form = {
        "resource": f"{stage.gateway}/mcp",
        "client_assertion_type": JWT_BEARER,
        "client_assertion": assertion,
    }
    return _exchange(stage, token, form)


def _exchange(
    stage: Stage, token: str, form: Mapping[str, str], auth: tuple[str, str] | None = None
) -> str:
    asked = {"grant_type": EXCHANGE, "subject_token": token, "subject_token_type": ACCESS_TOKEN}
    with httpx2.Client(trust_env=False, auth=auth, timeout=30) as client:
        answer = client.post(f"{stage.gateway}/oauth/token", data={**asked, **form})
    body = answer.json()
    if answer.status_code != 200:
        raise ExchangeRefused(f"{body.get('error')}: {body.get('error_description')}")
    return str(body["access_token"])


def refusal_in(error: BaseException) -> MCPError:
    """The gateway's refusal, which the client's task groups may have wrapped. Else raises `error`."""
    inner = innermost(error)
    if not isinstance(inner, MCPError):
        raise error
    return inner


def innermost(error: BaseException) -> BaseException:
    """What went wrong within nested exception groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def call_tool(
    url: str, token: str, name: str, arguments: Mapping[str, Any] | None = None
) -> CallToolResult:
    """Call a tool at the MCP endpoint `url`. Raises what `refusal_in` finds a refusal in."""
    async with _http(token) as http, Client(streamable_http_client(url, http_client=http)) as mcp:
        return await mcp.call_tool(name, dict(arguments or {}))


async def tool_names(url: str, token: str) -> list[str]:
    """The names of the tools that the bearer of `token` may see."""
    async with _http(token) as http, Client(streamable_http_client(url, http_client=http)) as mcp:
        return [tool.name for tool in (await mcp.list_tools()).tools]


def _http(token: str) -> httpx2.AsyncClient:
    headers = {"Authorization": f"Bearer {token}"}
    return httpx2.AsyncClient(headers=headers, trust_env=False, timeout=30)
