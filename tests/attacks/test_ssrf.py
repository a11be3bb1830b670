"""URLs that others name and that lead to us, our neighbours or the cloud's metadata: nobody is reached."""

from __future__ import annotations

from collections.abc import AsyncIterator
from ipaddress import ip_address, ip_network

import httpx2
import pytest

from agentgw.app.guarded_http import resolve_host
from agentgw.core.addresses import Address
from tests.guarded import guarded
from tests.listener import Listener, listening

pytestmark = pytest.mark.anyio

HOSTS = (
    "127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "017700000001", "0177.0.0.1",
    "127.000.000.001", "0", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
    "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[fe80::1]", "localhost", "LOCALHOST",
    "localhost.", "localtest.example", "metadata.example", "mixed.example",
)  # fmt: skip
NAMES = {
    "localtest.example": ["127.0.0.1"],
    "metadata.example": ["169.254.169.254"],
    "mixed.example": ["93.184.216.34", "127.0.0.1"],
}


async def resolve(host: str, port: int) -> list[Address]:
    """What a resolver says, the names of the attacker's zone included."""
    if host in NAMES:
        return [ip_address(text) for text in NAMES[host]]
    return await resolve_host(host, port)


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    async with listening() as found:
        yield found


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", HOSTS)
async def test_no_way_of_writing_it_reaches_this_host(
    listener: Listener, host: str, scheme: str
) -> None:
    client = guarded(resolve=resolve)
    async with client:
        with pytest.raises((httpx2.HTTPError, httpx2.InvalidURL)):
            await client.get(f"{scheme}://{host}:{listener.port}/")
    assert listener.hits == []


async def test_a_redirect_is_not_followed() -> None:
    async with listening() as inner:
        location = f"http://localhost:{inner.port}/"
        moved = f"HTTP/1.1 302 x\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n".encode()
        async with listening(moved) as outer:
            client = guarded(ip_network("127.0.0.1/32"))
            async with client:
                answer = await client.get(f"http://127.0.0.1:{outer.port}/")
            assert (answer.status_code, len(outer.hits), inner.hits) == (302, 1, [])


async def test_a_network_that_the_operator_listed_is_reached(listener: Listener) -> None:
    client = guarded(ip_network("127.0.0.0/8"))
    async with client:
        assert (await client.get(f"http://127.0.0.1:{listener.port}/x")).status_code == 200
        assert (await client.get(f"http://localhost:{listener.port}/x")).status_code == 200
    assert [hit.splitlines()[0] for hit in listener.hits] == [b"GET /x HTTP/1.1"] * 2


async def test_plain_http_is_refused_unless_allowed(listener: Listener) -> None:
    client = guarded(ip_network("127.0.0.0/8"), plain_http=False)
    async with client:
        with pytest.raises(httpx2.UnsupportedProtocol, match="https"):
            await client.get(f"http://127.0.0.1:{listener.port}/")
    assert listener.hits == []


async def test_the_environments_proxy_is_not_asked(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{listener.port}")
    async with guarded(resolve=resolve) as client:
        with pytest.raises(httpx2.ConnectError):
            await client.get("http://metadata.example/")
    assert listener.hits == []
