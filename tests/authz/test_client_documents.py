"""How long a client's document counts: by its own word, within bounds, and through its server's bad hours."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httpx2
import pytest

from agentgw.authz.client_documents import (
    LAST_RESORT,
    LONGEST,
    REFUSED_SECONDS,
    SHORTEST,
    ClientDocuments,
    life_of,
)
from agentgw.errors import OAuthError
from tests.listener import Listener, listening

pytestmark = pytest.mark.anyio


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Web:
    """A client's web server, and the gateway's view of it."""

    def __init__(self, listener: Listener, client: httpx2.AsyncClient) -> None:
        self.listener, self.clock = listener, Clock()
        self.url = f"http://127.0.0.1:{listener.port}/client.json"
        self.documents = ClientDocuments(client, self.clock)

    def serve(self, cache: str = "", status: str = "200 OK", **changes: object) -> None:
        document = {
            "client_id": self.url,
            "client_name": "App",
            "redirect_uris": ["https://app.example/cb"],
        }
        body = json.dumps({**document, **changes})
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        line = f"cache-control: {cache}\r\n" if cache else ""
        self.listener.answer = f"{head}{line}\r\n{body}".encode()

    async def name(self, after: float = 0.0) -> str:
        self.clock.now += after
        return (await self.documents.get(self.url)).name

    @property
    def asked(self) -> int:
        return len(self.listener.hits)


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    async with listening() as listener, httpx2.AsyncClient(trust_env=False) as client:
        made = Web(listener, client)
        made.serve()
        yield made


@pytest.mark.parametrize(
    ("said", "life"),
    [
        ("", SHORTEST),
        ("max-age=3600", 3600),
        ("public, max-age=7200, immutable", 7200),
        ('max-age="7200"', 7200),
        ("MAX-AGE=7200", 7200),
        ("max-age=1", SHORTEST),
        ("max-age=99999999", LONGEST),
        ("max-age=9999999999999999", SHORTEST),
        ("no-store, max-age=7200", SHORTEST),
        ("no-cache", SHORTEST),
        ("max-age=7200, max-age=3600", SHORTEST),
        ("max-age=-5", SHORTEST),
        ("s-maxage=7200", SHORTEST),
        ("max-age=x", SHORTEST),
    ],
)
def test_its_own_word_counts_within_bounds(said: str, life: float) -> None:
    assert life_of(said) == life


async def test_it_is_asked_for_again_when_its_time_is_over(web: Web) -> None:
    web.serve("max-age=3600")
    assert await web.name() == "App" and await web.name(3599) == "App" and web.asked == 1
    web.serve(client_name="App two")
    assert await web.name(1) == "App two" and web.asked == 2
    assert await web.name(SHORTEST - 1) == "App two" and web.asked == 2


@pytest.mark.parametrize("status", ["500 x", "503 x", "429 x", "408 x"])
async def test_it_outlasts_an_hour_of_a_server_that_fails_and_no_more(
    web: Web, status: str
) -> None:
    assert await web.name() == "App"
    web.serve(status=status)
    assert await web.name(SHORTEST) == "App"
    assert await web.name(LAST_RESORT - 1) == "App"
    with pytest.raises(OAuthError, match=status[:3]):
        await web.name(REFUSED_SECONDS)


async def test_it_outlasts_a_server_that_is_gone(web: Web) -> None:
    assert await web.name() == "App"
    web.listener.answer = b""
    assert await web.name(SHORTEST) == "App"


@pytest.mark.parametrize("status", ["404 x", "410 x", "403 x", "302 x", "206 x"])
async def test_it_does_not_outlast_being_taken_down(web: Web, status: str) -> None:
    assert await web.name() == "App"
    web.serve(status=status)
    with pytest.raises(OAuthError, match=status[:3]):
        await web.name(SHORTEST)


async def test_it_does_not_outlast_becoming_wrong(web: Web) -> None:
    assert await web.name() == "App"
    web.serve(client_id="https://other.example/id")
    with pytest.raises(OAuthError, match="not the URL"):
        await web.name(SHORTEST)
    web.serve(status="500 x")
    with pytest.raises(OAuthError, match="500"):
        await web.name(REFUSED_SECONDS)


async def test_a_failure_is_asked_about_again_after_a_pause(web: Web) -> None:
    web.serve(status="404 x")
    for _ in range(3):
        with pytest.raises(OAuthError):
            await web.name()
    web.serve()
    assert web.asked == 1 and await web.name(REFUSED_SECONDS) == "App"
