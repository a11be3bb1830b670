"""What hosts that others name could make of the one client that asks them all: memory, patience, trust."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_network
from pathlib import Path

import httpx2
import pytest
from cryptography import x509

from agentgw.app.guarded_http import GuardedTransport, Resolve
from agentgw.core.addresses import Address
from tests.certificates import issue
from tests.guarded import guarded
from tests.listener import Listener, listening

pytestmark = pytest.mark.anyio

LOOPBACK = (ip_network("127.0.0.0/8"),)


def resolving(*addresses: str) -> Resolve:
    """A resolver that gives these addresses for every host."""

    async def resolve(host: str, port: int) -> list[Address]:
        return [ip_address(text) for text in addresses]

    return resolve


def client_to(*addresses: str, verify: ssl.SSLContext | bool = True) -> httpx2.AsyncClient:
    return guarded(*LOOPBACK, resolve=resolving(*addresses), verify=verify)


async def test_what_a_host_sets_as_a_cookie_is_not_brought_back_to_it() -> None:
    setting = b"HTTP/1.1 200 OK\r\nset-cookie: user=alice; Path=/\r\ncontent-length: 0\r\n\r\n"
    async with listening(setting) as listener, client_to("127.0.0.1") as client:
        for _ in range(2):
            await client.get(f"http://saas.example.com:{listener.port}/")
    assert len(listener.hits) == 2
    assert b"cookie" not in listener.hits[1].lower()


async def test_a_host_of_many_addresses_is_tried_at_four_of_them() -> None:
    silent = tuple(f"127.9.0.{number}" for number in range(1, 5))
    async with listening() as listener:
        url = f"http://many.example:{listener.port}/"
        async with client_to(*silent[:3], "127.0.0.1") as client:
            assert (await client.get(url)).status_code == 200
        async with client_to(*silent, "127.0.0.1") as client:
            with pytest.raises(httpx2.ConnectError):
                await client.get(url)
    assert len(listener.hits) == 1


async def test_the_unguarded_pool_of_httpx2_is_never_made(monkeypatch: pytest.MonkeyPatch) -> None:
    # Were it there, a release of httpx2 that sends through it by another name would undo the guard.
    def made(*_: object, **__: object) -> None:
        raise AssertionError("an unguarded pool was made")

    monkeypatch.setattr(httpx2.AsyncHTTPTransport, "__init__", made)
    async with listening() as listener:
        guarded = GuardedTransport(lambda: LOOPBACK, lambda: True, resolving("127.0.0.1"), True)
        request = httpx2.Request("GET", f"http://any.example:{listener.port}/")
        async with guarded:
            assert (await guarded.handle_async_request(request)).status_code == 200


@asynccontextmanager
async def https_listening(name: str, where: Path) -> AsyncIterator[tuple[Listener, ssl.SSLContext]]:
    """A Listener with a certificate for `name` alone, and what trusts its authority."""
    authority = issue("an authority", ca=True)
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(issue(name, authority, x509.DNSName(name)).write(where / "served.pem"))
    found = Listener()
    async with await asyncio.start_server(found.serve, "127.0.0.1", 0, ssl=served) as server:
        found.port = server.sockets[0].getsockname()[1]
        yield found, ssl.create_default_context(cadata=authority.pem)


async def test_the_certificate_must_be_that_of_the_host_not_of_the_address(tmp_path: Path) -> None:
    async with https_listening("idp.example", tmp_path) as (listener, trust):
        async with client_to("127.0.0.1", verify=trust) as client:
            answer = await client.get(f"https://idp.example:{listener.port}/keys")
            assert (answer.status_code, len(listener.hits)) == (200, 1)
            for host in ("other.example", "127.0.0.1"):
                with pytest.raises(httpx2.ConnectError, match=r"(?i)certificate"):
                    await client.get(f"https://{host}:{listener.port}/")
    assert b"GET /keys" in listener.hits[0]
    assert not any(b"GET / " in hit for hit in listener.hits)


async def test_a_certificate_of_nobody_we_trust_is_refused(tmp_path: Path) -> None:
    async with https_listening("idp.example", tmp_path) as (listener, _):
        async with client_to("127.0.0.1") as client:
            with pytest.raises(httpx2.ConnectError, match=r"(?i)certificate"):
                await client.get(f"https://idp.example:{listener.port}/")
    assert not any(b"GET" in hit for hit in listener.hits)
