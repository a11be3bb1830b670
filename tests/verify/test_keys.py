from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse, RedirectResponse, Response

from agentgw.verify import InvalidCall
from agentgw.verify.keys import COOL_DOWN, MAX_AGE, JwksCache, KeysUnavailable
from tests.verify.gateway import GATEWAY, MESSAGE, FakeGateway

pytestmark = pytest.mark.anyio


class Monotonic:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[FakeGateway]:
    made = FakeGateway(tmp_path)
    async with made.client:
        yield made


@pytest.fixture
def time() -> Monotonic:
    return Monotonic()


@pytest.fixture
def cache(gateway: FakeGateway, time: Monotonic) -> JwksCache:
    return JwksCache(f"{GATEWAY}/oauth/jwks.json", client=gateway.client, monotonic=time)


async def test_all_who_wait_share_one_fetch(gateway: FakeGateway, cache: JwksCache) -> None:
    kid = gateway.keyring.current.kid
    found = await asyncio.gather(*(cache.find(kid) for _ in range(20)))
    assert all(found) and gateway.fetches == 1


async def test_made_up_kids_cause_few_fetches(gateway: FakeGateway, cache: JwksCache) -> None:
    kid = gateway.keyring.current.kid
    for number in range(1000):
        assert await cache.find(f"kid-{number}") is None
    assert await cache.find(kid) is not None
    assert gateway.fetches == 1


async def test_a_new_kid_is_found_after_the_cool_down(
    gateway: FakeGateway, cache: JwksCache, time: Monotonic
) -> None:
    await cache.find(gateway.keyring.current.kid)
    gateway.keyring.rotate(min_age=0)
    assert await cache.find(gateway.keyring.current.kid) is not None
    assert gateway.fetches == 1, "the next key was published before"
    gateway.keyring.rotate(min_age=0)
    assert await cache.find(gateway.keyring.current.kid) is None
    time.now += COOL_DOWN
    assert await cache.find(gateway.keyring.current.kid) is not None


BAD: dict[str, Response] = {
    "a redirect": RedirectResponse("https://evil.example.com/keys"),
    "an error": JSONResponse({"keys": []}, status_code=500),
    "a page": Response("<html>", media_type="text/html"),
    "a flood": Response(b'{"keys": [' + b" " * 300_000 + b"]}"),
    "no keys": JSONResponse({"keys": []}),
    "a list": JSONResponse([]),
    "a secret key": JSONResponse(
        {"keys": [{"kty": "oct", "k": "AAAA", "kid": "x", "alg": "HS256"}]}
    ),
    "a member twice": Response(b'{"keys": [], "keys": []}'),
}


@pytest.mark.parametrize("kind", BAD)
async def test_a_poisoned_answer_leaves_the_last_good_set(
    gateway: FakeGateway, cache: JwksCache, time: Monotonic, kind: str
) -> None:
    kid = gateway.keyring.current.kid
    await cache.find(kid)
    gateway.answer = BAD[kind]
    time.now += MAX_AGE + 1
    assert await cache.find(kid) is not None
    assert await cache.find("x") is None
    assert gateway.fetches == 2


async def test_without_any_key_set_nothing_is_verified_until_there_is_one(
    gateway: FakeGateway, cache: JwksCache, time: Monotonic
) -> None:
    gateway.answer = BAD["an error"]
    for _ in range(5):
        with pytest.raises(KeysUnavailable):
            await cache.find(gateway.keyring.current.kid)
    assert gateway.fetches == 1
    with pytest.raises(InvalidCall, match="keys"):
        await gateway.verifier().verify(gateway.token(), MESSAGE)
    gateway.answer = None
    time.now += 1
    assert await cache.find(gateway.keyring.current.kid) is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"alg": "HS256"},
        {"alg": None},
        {"use": "enc"},
        {"d": "AAAA"},
        {"kid": 7},
        {"x": "!"},
        {"kty": "EX"},
    ],
)
async def test_one_bad_member_does_not_cost_the_good_ones(
    gateway: FakeGateway, cache: JwksCache, changes: dict[str, Any]
) -> None:
    good = gateway.keyring.jwks()["keys"]
    bad = good[0] | {"kid": "bad"} | changes
    gateway.answer = Response(json.dumps({"keys": [bad, 7, *good]}))
    assert await cache.find("bad") is None
    assert await cache.find(good[0]["kid"]) is not None


async def test_closes_only_the_client_it_made(gateway: FakeGateway, cache: JwksCache) -> None:
    await cache.close()
    assert not gateway.client.is_closed
