"""The official Python client, unmodified, in both its modes; and how it finds where to log in."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken

from tests.harness import ROOT, Gateway, Issuer, allow_all, faulty_server, gateway

SERVERS = ("modern", "handshake", "child")
PLACES = [(server, union) for server in SERVERS for union in (True, False)]
everywhere = pytest.mark.parametrize(("server", "union"), PLACES)
both_modes = pytest.mark.parametrize("mode", ["auto", "legacy"])
Mode = Literal["auto", "legacy"]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[Gateway]:
    with faulty_server() as url:
        script = str(ROOT / "tools/servers/stdio_echo.py")
        servers: dict[str, Any] = {
            "modern": {
                "url": f"{url}/mcp/ok?era=modern",
                "tools": {"echo": {"scope": "tickets.read"}},
            },
            "handshake": {"url": f"{url}/mcp/ok?era=handshake"},
            "child": {"command": sys.executable, "args": [script]},
        }
        changes = {"servers": servers, "grants": allow_all(*servers)}
        with gateway(tmp_path_factory.mktemp("python"), issuer, changes) as gw:
            yield gw


def place(house: Gateway, server: str, union: bool) -> tuple[str, str]:
    """The URL, and what comes before the name of a tool there."""
    return (f"{house.url}/mcp", f"{server}__") if union else (f"{house.url}/mcp/{server}", "")


def browser(house: Gateway) -> httpx2.AsyncClient:
    headers = {"Authorization": f"Bearer {house.token()}"}
    return httpx2.AsyncClient(headers=headers, trust_env=False, timeout=20)


@everywhere
@both_modes
@pytest.mark.anyio
async def test_the_python_client_lists_and_calls(
    house: Gateway, mode: Mode, server: str, union: bool
) -> None:
    url, prefix = place(house, server, union)
    heard: list[float] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        heard.append(progress)

    async with (
        browser(house) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode) as client,
    ):
        names = [tool.name for tool in (await client.list_tools()).tools]
        assert f"{prefix}echo" in names
        result = await client.call_tool(f"{prefix}echo", {"text": "grüße"})
        assert json.loads(result.content[0].text) == {"text": "grüße"}  # type: ignore[union-attr]
        structured = await client.call_tool(f"{prefix}structured", {"text": "x"})
        assert structured.structured_content == {"echo": {"text": "x"}}
        failed = await client.call_tool(f"{prefix}fail", {})
        assert failed.is_error
        await client.call_tool(f"{prefix}progress", {"steps": 3}, progress_callback=on_progress)
        assert heard == [1, 2, 3]


@both_modes
@pytest.mark.anyio
async def test_a_refusal_reaches_the_python_client_as_an_error_and_the_next_call_works(
    house: Gateway, mode: Mode
) -> None:
    async with (
        browser(house) as http,
        Client(streamable_http_client(f"{house.url}/mcp", http_client=http), mode=mode) as client,
    ):
        with pytest.raises(MCPError) as refused:
            await client.call_tool("elsewhere__delete_everything", {})
        assert refused.value.error.code == 46001
        assert refused.value.error.data["reason"] == "not_available"
        result = await client.call_tool("child__echo", {"text": "x"})
        assert not result.is_error


class Storage:
    """Keeps nothing but the client's registration."""

    def __init__(self, client: OAuthClientInformationFull) -> None:
        self._client = client

    async def get_tokens(self) -> OAuthToken | None:
        return None

    async def set_tokens(self, tokens: OAuthToken) -> None:
        raise AssertionError("no token is issued in this test")

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self._client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self._client = client_info


class Stop(Exception):
    """The client has asked for authorization: far enough."""


@pytest.mark.parametrize("server", ["", "/modern"])
@pytest.mark.anyio
async def test_the_clients_oauth_finds_the_issuer_through_the_resource_metadata(
    house: Gateway, issuer: Issuer, server: str
) -> None:
    url = f"{house.url}/mcp{server}"
    asked: list[str] = []

    async def redirect(to: str) -> None:
        asked.append(to)
        raise Stop

    async def callback() -> AuthorizationCodeResult:
        raise AssertionError("nobody comes back")

    redirect_uri: Any = "http://127.0.0.1:7/callback"
    metadata = OAuthClientMetadata(client_name="tests", redirect_uris=[redirect_uri])
    registered = OAuthClientInformationFull(
        client_id="planner", redirect_uris=[redirect_uri], issuer=issuer.url
    )
    provider = OAuthClientProvider(url, metadata, Storage(registered), redirect, callback)
    async with httpx2.AsyncClient(auth=provider, trust_env=False) as http:
        with pytest.raises(Stop):
            await http.post(url, json={"jsonrpc": "2.0", "id": 1, "method": "ping"})
    parts = urlsplit(asked[0])
    query = parse_qs(parts.query)
    assert f"{parts.scheme}://{parts.netloc}" == issuer.url
    assert query["resource"] == [url]
    assert query["client_id"] == ["planner"]
    assert query["scope"] == ["tickets.read"]
    assert query["code_challenge_method"] == ["S256"]
