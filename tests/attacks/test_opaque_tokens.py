"""Threat: tokens that only their issuer can read, and what comes back when it is asked about them.

Nobody gets in on an answer that was not a plain yes; known tokens go on; the issuer is not flooded.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator

import httpx2
import pytest

from agentgw.errors import InvalidToken
from agentgw.identity.introspection import AT_ONCE, MEMORY, Introspection
from agentgw.identity.verifier import TokenVerifier
from agentgw.sts.client_auth.api_key import new_api_key
from tests.attacks.test_poisoned_jwks import (
    Answer,
    drip,
    endless,
    garbage,
    hang_up,
    reply,
    serving,
    silent,
)
from tests.harness import Issuer
from tests.identity.forge import NOW, US, FixedKeys, acme_rules, build

pytestmark = pytest.mark.anyio
AUDIENCE = f"{US}/mcp"
YES = {
    "active": True, "sub": "alice", "aud": AUDIENCE, "client_id": "planner", "token_type": "Bearer",
    "exp": NOW + 900, "iat": NOW,
}  # fmt: skip


def asking(url: str, client: httpx2.AsyncClient, deadline: float = 0.3) -> TokenVerifier:
    asked = Introspection(
        url,
        client,
        "gateway",
        "gateway-secret",
        endpoint=f"{url}/asked",
        dev=True,
        deadline=deadline,
    )
    keys = {"acme": FixedKeys([]), "other": FixedKeys([])}
    return build(acme_rules(issuer=url), keys=keys, opaque=("acme", asked))


HOSTILE: dict[str, Answer] = {
    "no": reply(b'{"active": false}'),
    "yes as text": reply(json.dumps({**YES, "active": "true"}).encode()),
    "yes as number": reply(json.dumps({**YES, "active": 1}).encode()),
    "yes and no": reply(b'{"active": false, ' + json.dumps(YES).encode()[1:]),
    "a list": reply(json.dumps([YES]).encode()),
    "html": reply(b"<html>sign in</html>"),
    "empty": reply(b""),
    "not found": reply(json.dumps(YES).encode(), "404 Not Found"),
    "refused": reply(json.dumps(YES).encode(), "401 Unauthorized"),
    "broken": reply(json.dumps(YES).encode(), "500 Internal Server Error"),
    "redirect": reply(b"", "307 Temporary Redirect", "Location: /yes"),
    "deep": reply(b'{"active":true,"x":' + b"[" * 100_000),
    "compressed": reply(json.dumps(YES).encode(), "200 OK", "Content-Encoding: gzip"),
    "20 MB": endless,
    "slow": drip,
    "silent": silent,
    "hangs up": hang_up,
    "garbage": garbage,
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_nothing_but_a_plain_yes_lets_anybody_in(name: str) -> None:
    async with serving() as idp, httpx2.AsyncClient(trust_env=False) as client:
        door = asking(idp.url, client)
        idp.routes["/yes"] = idp.routes["/asked"] = reply(json.dumps(YES).encode())
        known = await door.authenticate(b"known", NOW)
        idp.routes["/asked"] = HOSTILE[name]
        with pytest.raises(InvalidToken):
            await door.authenticate(b"stranger", NOW)
        assert idp.hits["/yes"] == 0
        assert door.lookup(b"known", NOW) is known
        assert (await door.authenticate(b"known", NOW)).subject == known.subject
        idp.routes["/asked"] = idp.routes["/yes"]
        await door.authenticate(b"another", NOW)


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    running = Issuer().start()
    yield running
    running.stop()


def opened(issuer: Issuer, client: httpx2.AsyncClient) -> TokenVerifier:
    asked = Introspection(issuer.url, client, "gateway", "gateway-secret", dev=True)
    keys = {"acme": FixedKeys([]), "other": FixedKeys([])}
    return build(acme_rules(issuer=issuer.url), keys=keys, opaque=("acme", asked))


async def test_an_answer_counts_for_the_whole_token_only(issuer: Issuer) -> None:
    async with httpx2.AsyncClient(trust_env=False) as client:
        door = opened(issuer, client)
        token = issuer.opaque(AUDIENCE)
        await door.authenticate(token.encode(), time.time())
        for near in (token[:-1], token + "=", token + "0", token.upper(), "x" + token):
            assert door.lookup(near.encode(), time.time()) is None
            with pytest.raises(InvalidToken, match="not active"):
                await door.authenticate(near.encode(), time.time())


async def test_three_hundred_strangers_cost_the_known_nothing(issuer: Issuer) -> None:
    async with httpx2.AsyncClient(trust_env=False) as client:
        door = opened(issuer, client)
        token = issuer.opaque(AUDIENCE).encode()
        await door.authenticate(token, time.time())
        strangers = [f"stranger-{number}".encode() for number in range(300)]
        results = await asyncio.gather(
            *(door.authenticate(stranger, time.time()) for stranger in strangers),
            return_exceptions=True,
        )
        assert all(isinstance(result, InvalidToken) for result in results)
        asked = len(issuer.asked)
        assert (await door.authenticate(token, time.time())).subject.sub == "alice"
        assert len(issuer.asked) == asked


async def test_few_requests_run_at_once_however_many_wait() -> None:
    together = [0, 0]

    async def counting(writer: asyncio.StreamWriter) -> None:
        together[0] += 1
        together[1] = max(together)
        await asyncio.sleep(0.005)
        together[0] -= 1
        await reply(b'{"active": false}')(writer)

    async with serving() as idp, httpx2.AsyncClient(trust_env=False) as client:
        idp.routes["/asked"] = counting
        door = asking(idp.url, client, deadline=3)
        tasks = [door.authenticate(f"stranger-{number}".encode(), NOW) for number in range(100)]
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, InvalidToken) for result in results)
    assert 1 < together[1] <= AT_ONCE


@pytest.mark.parametrize(
    "token", [b"a b", b"a\r\nx-evil: 1", b"a&token=b", "grüße".encode(), b"", b"=", b"a" * 20_000]
)
async def test_what_is_no_bearer_token_is_shown_to_nobody(issuer: Issuer, token: bytes) -> None:
    async with httpx2.AsyncClient(trust_env=False) as client:
        asked = len(issuer.asked)
        with pytest.raises(InvalidToken):
            await opened(issuer, client).authenticate(token, time.time())
        assert len(issuer.asked) == asked


async def test_a_jwt_is_never_shown_to_the_issuer_of_opaque_tokens(issuer: Issuer) -> None:
    foreign = issuer.token(AUDIENCE, iss="https://another.example")
    async with httpx2.AsyncClient(trust_env=False) as client:
        with pytest.raises(InvalidToken, match="not configured"):
            await opened(issuer, client).authenticate(foreign.encode(), time.time())
    assert foreign not in issuer.asked


async def test_an_api_key_is_never_shown_to_the_issuer_of_opaque_tokens(issuer: Issuer) -> None:
    key = new_api_key(os.urandom)
    async with httpx2.AsyncClient(trust_env=False) as client:
        with pytest.raises(InvalidToken, match="/oauth/token"):
            await opened(issuer, client).authenticate(key.encode(), time.time())
    assert key not in issuer.asked


async def test_a_token_revoked_at_its_issuer_is_refused_within_a_minute(issuer: Issuer) -> None:
    now = time.time()
    async with httpx2.AsyncClient(trust_env=False) as client:
        door = opened(issuer, client)
        token = issuer.opaque(AUDIENCE)
        await door.authenticate(token.encode(), now)
        del issuer.known[token]
        await door.authenticate(token.encode(), now + MEMORY - 1)
        with pytest.raises(InvalidToken, match="not active"):
            await door.authenticate(token.encode(), now + MEMORY)
