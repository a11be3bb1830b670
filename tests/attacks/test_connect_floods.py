"""Threat: a user who opens the page to connect an account over and over, so that nobody else's calls go on.

Each opening asks the tool server and its authorization server anew, which are slow at times.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from agentgw.errors import UpstreamFailed
from agentgw.upstream.oauth_client import OAuthClient, OwnRegistration
from agentgw.upstream.web import Web, origin_of
from tests.saas import house

pytestmark = pytest.mark.anyio

ISSUER = "https://login.notes.example"
MCP = "https://notes.example/mcp"
METADATA = {
    "issuer": ISSUER,
    "authorization_endpoint": f"{ISSUER}/authorize",
    "token_endpoint": f"{ISSUER}/token",
    "code_challenge_methods_supported": ["S256"],
}


RESOURCE = {"resource": MCP, "authorization_servers": [ISSUER]}


async def said(document: dict[str, Any]) -> AsyncIterator[bytes]:
    """A body that is yet to be read."""
    yield json.dumps(document).encode()


class Notes:
    """A tool server and its authorization server, which answers while `go` is set."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.go.set()
        self.status = 200
        self.asked = 0

    async def answer(self, request: httpx2.Request) -> httpx2.Response:
        """One answer."""
        url = str(request.url)
        if url == MCP:
            return httpx2.Response(401, content=said({}))
        if "oauth-protected-resource" in url:
            return httpx2.Response(200, content=said(RESOURCE))
        self.asked += 1
        await self.go.wait()
        return httpx2.Response(self.status, content=said(METADATA))

    async def is_asked(self, times: int) -> None:
        """Wait for so many questions."""
        async with asyncio.timeout(5):
            while self.asked < times:
                await asyncio.sleep(0)


@pytest.fixture
async def notes() -> AsyncIterator[Notes]:
    yield Notes()


@pytest.fixture
async def client(notes: Notes) -> AsyncIterator[OAuthClient]:
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(notes.answer)) as web:
        origins = {origin_of(MCP), origin_of(ISSUER)}
        asks = Web(web, web, origins, lambda url: None, 30)
        own = OwnRegistration("gateway", "secret")
        yield OAuthClient(MCP, MCP, own, asks, issuer=ISSUER, clock=lambda: 0.0)


async def test_who_asks_anew_holds_up_nobody_else(notes: Notes, client: OAuthClient) -> None:
    found = await client.find()
    notes.go.clear()
    asking = asyncio.create_task(client.find(anew=True))
    await notes.is_asked(2)
    async with asyncio.timeout(1):
        assert await client.find() is found and client.known is found
    notes.go.set()
    assert await asking is not found and client.known is await asking


async def test_many_who_ask_anew_at_once_are_told_by_one_question(
    notes: Notes, client: OAuthClient
) -> None:
    notes.go.clear()
    many = [asyncio.create_task(client.find(anew=True)) for _ in range(50)]
    await notes.is_asked(1)
    notes.go.set()
    assert len({id(found) for found in await asyncio.gather(*many)}) == 1
    assert notes.asked == 1
    await client.find(anew=True)
    assert notes.asked == 2


async def test_all_who_wait_are_told_of_one_failure(notes: Notes, client: OAuthClient) -> None:
    found = await client.find()
    notes.status = 500
    notes.go.clear()
    many = [asyncio.create_task(client.find(anew=True)) for _ in range(50)]
    await notes.is_asked(2)
    notes.go.set()
    told = await asyncio.gather(*many, return_exceptions=True)
    assert {type(each) for each in told} == {UpstreamFailed}
    assert await client.find() is found
    asked = notes.asked
    notes.status = 200
    assert await client.find(anew=True) is not found
    assert notes.asked == asked + 1


def test_who_is_not_signed_in_learns_of_no_server(tmp_path_factory: pytest.TempPathFactory) -> None:
    with house(tmp_path_factory.mktemp("nobody")) as running, running.gw.client() as nobody:
        for server in ("saas", "none"):
            path = f"/oauth/connect/{server}"
            assert nobody.get(path).status_code == 303
            form = {"csrf": "x", "link": "x"}
            assert nobody.post(path, data=form).status_code == 403
