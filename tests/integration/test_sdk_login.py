"""The official SDK's own OAuth client, unmodified: it is given the gateway's URL and finds the rest."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp import Client
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken

from tests.login import agents, allow, login_place, signed_in
from tests.people import Place, Visitor, query_of

REDIRECT = "http://127.0.0.1:45321/callback"


ROAMING: dict[str, Any] = {"login": {"client_metadata": ["*"], "dynamic": True}}
"""An agent that is every client which nobody registered."""


@pytest.fixture(scope="module")
def document() -> Iterator[str]:
    """The URL of a client's document (CIMD)."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            said = {"client_id": url, "client_name": "SDK client", "redirect_uris": [REDIRECT]}
            body = json.dumps(said).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    url = f"http://127.0.0.1:{server.server_port}/client.json"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield url
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, faulty: str) -> Iterator[Place]:
    folder: Path = tmp_path_factory.mktemp("login")
    changes: dict[str, Any] = {
        "agents": {**agents(), "roaming": ROAMING},
        "outbound": {"private_networks": ["127.0.0.1/32"]},
    }
    with login_place(folder, faulty, **changes) as running:
        yield running


class Storage:
    """What the client keeps between its runs."""

    def __init__(self, client: OAuthClientInformationFull | None) -> None:
        self.client = client
        self.tokens: OAuthToken | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


class ScriptedBrowser:
    """Opens what the client would open, and gives it what comes back to its loopback port."""

    def __init__(self, here: Place, visitor: Visitor, without: tuple[str, ...]) -> None:
        self._here = here
        self._visitor = visitor
        self._without = without
        self.answer: dict[str, str] = {}

    async def open(self, url: str) -> None:
        self.answer = await anyio.to_thread.run_sync(self._consent, url)

    def _consent(self, url: str) -> dict[str, str]:
        page = signed_in(self._here, self._visitor, self._visitor.open(url), "alice")
        return query_of(allow(self._visitor, page, self._without))

    async def came_back(self) -> AuthorizationCodeResult:
        answer = self.answer
        return AuthorizationCodeResult(
            code=answer["code"], state=answer["state"], iss=answer["iss"]
        )


def provider(
    here: Place, storage: Storage, browser: ScriptedBrowser, path: str
) -> OAuthClientProvider:
    return OAuthClientProvider(
        server_url=here.url + path,
        client_metadata=OAuthClientMetadata.model_validate(
            {"client_name": "SDK client", "redirect_uris": [REDIRECT]}
        ),
        storage=storage,
        redirect_handler=browser.open,
        callback_handler=browser.came_back,
    )


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/mcp", "/mcp/tickets"])
async def test_a_preregistered_sdk_client_signs_its_user_in_and_works(
    here: Place, path: str
) -> None:
    known = OAuthClientInformationFull(client_id="desktop", token_endpoint_auth_method="none")
    storage = Storage(known)
    prefix = "tickets__" if path == "/mcp" else ""
    with Visitor() as alice:
        browser = ScriptedBrowser(here, alice, ("tool:tickets/fail",))
        auth = provider(here, storage, browser, path)
        async with httpx2.AsyncClient(auth=auth, trust_env=False, timeout=30) as http:
            async with Client(streamable_http_client(here.url + path, http_client=http)) as client:
                names = {tool.name for tool in (await client.list_tools()).tools}
                assert f"{prefix}echo" in names and f"{prefix}fail" not in names
                called = await client.call_tool(f"{prefix}echo", {"text": "hello"})
                assert not called.is_error
    assert storage.tokens is not None and storage.tokens.refresh_token is not None


@pytest.mark.anyio
async def test_the_sdk_client_refreshes_by_itself(here: Place) -> None:
    known = OAuthClientInformationFull(client_id="desktop", token_endpoint_auth_method="none")
    storage = Storage(known)
    with Visitor() as alice:
        browser = ScriptedBrowser(here, alice, ())
        auth = provider(here, storage, browser, "/mcp")
        async with httpx2.AsyncClient(auth=auth, trust_env=False, timeout=30) as http:
            async with Client(
                streamable_http_client(f"{here.url}/mcp", http_client=http)
            ) as client:
                await client.call_tool("notes__echo", {"text": "x"})
                first = storage.tokens
                auth.context.token_expiry_time = 1.0
                await client.call_tool("notes__echo", {"text": "x"})
    assert first is not None and storage.tokens is not None
    assert storage.tokens.access_token != first.access_token
    assert storage.tokens.refresh_token != first.refresh_token


@pytest.mark.anyio
@pytest.mark.parametrize("known_by", ["a document", "registration"])
async def test_an_sdk_client_that_nobody_registered_gets_through(
    here: Place, document: str, known_by: str
) -> None:
    # The SDK takes https URLs of documents only, but a client_id it was given before as it is.
    by_document = OAuthClientInformationFull(client_id=document, token_endpoint_auth_method="none")
    storage = Storage(by_document if known_by == "a document" else None)
    with Visitor() as alice:
        browser = ScriptedBrowser(here, alice, ("tool:notes/fail",))
        auth = provider(here, storage, browser, "/mcp")
        async with (
            httpx2.AsyncClient(auth=auth, trust_env=False, timeout=30) as web,
            Client(streamable_http_client(f"{here.url}/mcp", http_client=web)) as client,
        ):
            names = {tool.name for tool in (await client.list_tools()).tools}
            assert "notes__echo" in names and "notes__fail" not in names
            called = await client.call_tool("notes__echo", {"text": "hello"})
            assert not called.is_error
    assert storage.client is not None
    assert storage.client.client_id.startswith("http" if known_by == "a document" else "dyn-")
