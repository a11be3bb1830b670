from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from agentgw.errors import InvalidToken
from agentgw.identity.oidc import IssuerUnusable
from agentgw.identity.spiffe import COOL_DOWN, FILE_SECONDS, SpiffeBundle, read_bundle
from tests.spiffe import TrustDomain

pytestmark = pytest.mark.anyio

URL = "https://bundles.example/agents"


class Bytes(httpx2.AsyncByteStream):
    def __init__(self, data: bytes) -> None:
        self._data = data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._data


class Endpoint(httpx2.AsyncBaseTransport):
    """A bundle endpoint that answers what it is told to, and counts."""

    def __init__(self) -> None:
        self.answer: Any = {}
        self.status = 200
        self.asked = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.asked += 1
        body = self.answer if isinstance(self.answer, bytes) else json.dumps(self.answer).encode()
        return httpx2.Response(self.status, stream=Bytes(body), headers={"location": URL})


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def bundle(endpoint: Endpoint, clock: Clock) -> AsyncIterator[SpiffeBundle]:
    async with httpx2.AsyncClient(transport=endpoint) as client:
        yield SpiffeBundle(URL, client, clock=clock)


async def test_keys_and_authorities_are_read_and_rotate(
    bundle: SpiffeBundle, endpoint: Endpoint, clock: Clock
) -> None:
    domain = TrustDomain("agents.example")
    endpoint.answer = domain.bundle(spiffe_refresh_hint=60)
    assert await bundle.refresh()
    assert bundle.certificates == (domain.root.certificate,) and bundle.problem is None
    assert (await bundle.find("j1")).kid == "j1"
    fresh = TrustDomain("agents.example")
    fresh.kid = "j2"
    endpoint.answer = fresh.bundle(spiffe_refresh_hint=60)
    clock.now = 59
    assert not await bundle.refresh() and endpoint.asked == 1
    clock.now = 60
    assert await bundle.refresh()
    assert bundle.certificates == (fresh.root.certificate,)
    with pytest.raises(InvalidToken):
        await bundle.find("j1")


async def test_an_unknown_key_asks_again_but_not_each_time(
    bundle: SpiffeBundle, endpoint: Endpoint, clock: Clock
) -> None:
    domain = TrustDomain("agents.example")
    endpoint.answer = domain.bundle()
    await bundle.refresh()
    domain.kid = "j2"
    endpoint.answer = domain.bundle()
    for _ in range(100):
        with pytest.raises(InvalidToken):
            await bundle.find("j2")
    assert endpoint.asked == 1
    clock.now = COOL_DOWN
    assert (await bundle.find("j2")).kid == "j2"
    for kid in ("x", "y", "z"):
        with pytest.raises(InvalidToken):
            await bundle.find(kid)
    assert endpoint.asked == 2


@pytest.mark.parametrize(
    "poison",
    [b"<html>", b"[]", {}, {"keys": []}, {"keys": [{"kty": "oct", "k": "AA"}]}, b"x" * 300_000],
)
async def test_what_is_no_bundle_keeps_the_last_good_one(
    bundle: SpiffeBundle, endpoint: Endpoint, clock: Clock, poison: Any
) -> None:
    domain = TrustDomain("agents.example")
    endpoint.answer = domain.bundle()
    await bundle.refresh()
    endpoint.answer = poison
    clock.now = 1000
    assert not await bundle.refresh()
    assert bundle.problem is not None and bundle.certificates
    assert await bundle.find("j1")
    endpoint.answer, endpoint.status = domain.bundle(), 302
    clock.now = 2000
    assert not await bundle.refresh() and bundle.problem == "it answered 302"


async def test_a_file_is_read_again(tmp_path: Path, clock: Clock) -> None:
    file, domain = tmp_path / "bundle.json", TrustDomain("agents.example")
    async with httpx2.AsyncClient() as client:
        bundle = SpiffeBundle(file, client, clock=clock)
        assert not await bundle.refresh()
        file.write_text(json.dumps(domain.bundle()))
        clock.now = 30
        assert await bundle.refresh() and bundle.problem is None
        file.write_text(json.dumps(TrustDomain("agents.example").bundle()))
        clock.now += FILE_SECONDS
        assert await bundle.refresh()
        assert bundle.certificates != (domain.root.certificate,)


def test_members_say_by_use_what_they_are_for() -> None:
    document = TrustDomain("agents.example").bundle()
    x509_member, jwt_member = document["keys"]
    only = read_bundle({"keys": [x509_member, {**jwt_member, "use": "sig"}, "junk", {}]})
    assert len(only.certificates) == 1 and not only.keys
    twice = {**x509_member, "x5c": x509_member["x5c"] * 2}
    only = read_bundle({"keys": [twice, {**x509_member, "x5c": ["AA"]}, jwt_member]})
    assert not only.certificates and list(only.keys) == ["j1"]
    with pytest.raises(IssuerUnusable):
        read_bundle({"keys": [{**jwt_member, "kid": None}, {**x509_member, "use": "jwt-svid"}]})
