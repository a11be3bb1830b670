"""Which client asks for a URL that somebody else named."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from agentgw.errors import UpstreamFailed
from agentgw.upstream.web import Web, origin_of
from tests.harness import NO_TLS
from tests.integration.toolserver import serving

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def tell(request: Request) -> JSONResponse:
    return JSONResponse({"by": request.headers["x-client"]})


@pytest.fixture(scope="module")
def urls() -> Iterator[tuple[str, str]]:
    """Two servers that say which client asked them."""
    app = Starlette(routes=[Route("/{path:path}", tell)])
    with serving(app) as one, serving(app) as other:
        yield one, other


def client(name: str) -> httpx2.AsyncClient:
    transport = httpx2.AsyncHTTPTransport(verify=NO_TLS)
    return httpx2.AsyncClient(transport=transport, headers={"x-client": name})


def refuse(url: str) -> None:
    raise UpstreamFailed("it must not be asked")


async def test_only_the_origins_an_operator_named_are_asked_without_the_guard(
    urls: tuple[str, str],
) -> None:
    named, other = urls
    async with client("guarded") as guarded, client("plain") as plain:
        web = Web(guarded, plain, {origin_of(f"{named}/mcp")}, lambda url: None, 5)
        assert (await web.get(f"{named}/.well-known/x")).document == {"by": "plain"}
        assert (await web.get(f"{other}/x")).document == {"by": "guarded"}


async def test_what_must_not_be_asked_is_not(urls: tuple[str, str]) -> None:
    named, other = urls
    async with client("guarded") as guarded, client("plain") as plain:
        web = Web(guarded, plain, {origin_of(named)}, refuse, 5)
        assert (await web.get(f"{named}/x")).status == 200
        with pytest.raises(UpstreamFailed):
            await web.get(f"{other}/x")


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://a.example", "https://a.example:443"),
        ("http://A.example:80/x", "http://a.example:80"),
        ("https://a.example:8443@evil.example/y", ""),
        ("https://u@a.example", ""),
        ("file:///etc/passwd", ""),
        ("https://[::1", ""),
        ("https://a.example:x", ""),
    ],
)
async def test_an_origin_is_what_is_connected_to(url: str, origin: str) -> None:
    assert origin_of(url) == origin
