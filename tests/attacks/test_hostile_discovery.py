"""Threat: a configured issuer, or whoever took it over, names URLs inside our network in its metadata.

What the operator wrote is asked as it stands; what the answer names elsewhere is asked at public addresses
only, and nobody inside gets so much as a connection.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from agentgw.app.guarded_http import resolve_host
from agentgw.app.outbound import HttpClients
from agentgw.config.model import Config
from agentgw.core.addresses import Address
from agentgw.errors import AgentgwError, UnverifiableToken, UpstreamFailed
from agentgw.identity.authorization_server import AuthorizationServer, ClientAccount
from agentgw.identity.introspection import Introspection
from agentgw.identity.oidc import OidcKeys
from agentgw.identity.provider import OpenIdProvider
from tests.harness import gateway, wait_for
from tests.listener import Listener, listening
from tests.scripted_issuer import ScriptedIssuer

pytestmark = pytest.mark.anyio

NAMES = {
    "metadata.example": "169.254.169.254",
    "inside.example": "10.0.0.7",
    "rebound.example": "127.0.0.1",
}
INSIDE = (
    "http://127.0.0.1:{port}/keys",
    "https://127.0.0.1:{port}/keys",
    "https://localhost:{port}/keys",
    "https://[::ffff:127.0.0.1]:{port}/keys",
    "https://0x7f000001:{port}/keys",
    "https://rebound.example:{port}/keys",
    "https://inside.example/keys",
    "https://metadata.example/latest",
    "https://169.254.169.254/latest",
)


async def resolve(host: str, port: int) -> list[Address]:
    """What a resolver says, the names of the attacker's zone included."""
    return [ip_address(NAMES[host])] if host in NAMES else await resolve_host(host, port)


def clients(**settings: object) -> HttpClients:
    head = {"version": 1, "public_url": "https://gw.example.com", "state_dir": "/nowhere"}
    config = Config.model_validate({**head, **settings})
    return HttpClients(lambda: config, resolve)


@contextlib.asynccontextmanager
async def issuer(names: str) -> AsyncIterator[str]:
    """An issuer whose metadata names `names` for everything; its identifier."""
    async with listening() as listener:
        url = f"http://127.0.0.1:{listener.port}"
        endpoints = ("jwks_uri", "token_endpoint", "introspection_endpoint")
        body = json.dumps({"issuer": url, **dict.fromkeys(endpoints, names)}).encode()
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        listener.answer = head.encode() + body
        yield url


@pytest.fixture
async def inner() -> AsyncIterator[Listener]:
    async with listening() as found:
        yield found


@pytest.mark.parametrize("names", INSIDE)
async def test_no_url_of_its_metadata_leads_inside(inner: Listener, names: str) -> None:
    async with (
        issuer(names.format(port=inner.port)) as url,
        contextlib.aclosing(clients()) as http,
    ):
        client, account = http.of(url), ClientAccount("gateway", "a-secret")
        keys = OidcKeys(url, client, dev=True)
        assert "names another host, which is not asked" in (await keys.warm() or "")
        asked = Introspection(url, client, "gateway", "a-secret", dev=True)
        with pytest.raises(UnverifiableToken, match="not asked"):
            await asked.ask(b"a-token", time.time())
        server = AuthorizationServer(url, account, client, keys=keys, dev=True)
        with pytest.raises(UpstreamFailed, match="not asked"):
            await server.request({"grant_type": "client_credentials"})
        provider = OpenIdProvider(url, account, client, keys, dev=True)
        with pytest.raises(AgentgwError, match="not asked"):
            await provider.redeem({"grant_type": "authorization_code", "code": "c"})
    assert inner.hits == []


async def test_what_the_operator_wrote_is_asked_though_it_lies_inside(inner: Listener) -> None:
    written = f"http://127.0.0.1:{inner.port}/keys"
    async with (
        issuer("https://metadata.example/keys") as url,
        contextlib.aclosing(clients()) as http,
    ):
        keys = OidcKeys(url, http.of(url, written), jwks_uri=written, dev=True)
        assert await keys.warm() == "its answer is not a JWK Set"
    assert len(inner.hits) == 1


async def test_a_network_that_the_operator_lists_may_be_named(inner: Listener) -> None:
    async with issuer(f"https://rebound.example:{inner.port}/keys") as url:
        async with contextlib.aclosing(
            clients(outbound={"private_networks": ["127.0.0.1"]})
        ) as http:
            assert "cannot be reached" in (await OidcKeys(url, http.of(url), dev=True).warm() or "")
    assert inner.hits[0][:1] == b"\x16"  # a TLS handshake, which this listener does not speak


async def test_a_cookie_of_an_issuer_is_brought_to_nobody() -> None:
    setting = b"HTTP/1.1 200 OK\r\nset-cookie: a=b; Path=/\r\ncontent-length: 2\r\n\r\n{}"
    async with listening(setting) as listener, contextlib.aclosing(clients()) as http:
        url = f"http://127.0.0.1:{listener.port}/"
        for client in (http.plain, http.plain, http.of(url), http.of(url)):
            await client.get(url)
    assert len(listener.hits) == 4 and not [1 for hit in listener.hits if b"cookie" in hit.lower()]


@pytest.fixture
def hostile() -> Iterator[ScriptedIssuer]:
    with ScriptedIssuer().served() as running:
        running.metadata = {"jwks_uri": "http://169.254.169.254/latest"}
        yield running


def test_a_gateway_tells_its_operator(hostile: ScriptedIssuer, tmp_path: Path) -> None:
    issuers = {"acme": {"issuer": hostile.url, "audiences": ["x"]}}
    changes = {"issuers": issuers, "agents": {}}
    with gateway(tmp_path, hostile, changes) as running:  # type: ignore[arg-type]
        told = "names another host, which is not asked: it is no public address"
        wait_for(lambda: told in running.output, "the warning")
        assert "outbound.private_networks" in running.output
