"""Threat: somebody floods a running gateway with kids nobody knows, or its issuers publish poison.

The whole gateway stands here, its issuers on loopback: known keys work, nothing else does, and honest
callers notice nothing. Each answer taken alone is judged in test_poisoned_jwks.py.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest

from agentgw.app import issuer_keys
from agentgw.app.opening import build
from agentgw.config import Config
from agentgw.identity.oidc import OidcKeys
from tests.attacks.test_poisoned_jwks import (
    POISON,
    Answer,
    Clock,
    Idp,
    drip,
    key_set,
    reply,
    serving,
    silent,
)
from tests.harness import (
    NO_TLS,
    Gateway,
    Issuer,
    base_config,
    free_port,
    gateway,
    modern_headers,
    modern_message,
)
from tests.identity.forge import ec_key, jwk, sign

pytestmark = pytest.mark.anyio
HERE = "http://127.0.0.1:7117"
PLANNER = {"client_id": "planner", "confidential": True}


def token(
    issuer: str, audience: str, key: str = "acme", kid: str = "k1", jti: str = "idp-1"
) -> str:
    """alice's token through planner, signed by the key called `key`."""
    now = int(time.time())
    claims = {
        "iss": issuer, "sub": "alice", "aud": audience, "azp": "planner",
        "iat": now, "exp": now + 900, "jti": jti,
    }  # fmt: skip
    header = {"alg": "ES256", "kid": kid, "typ": "at+jwt"}
    return sign(ec_key(key), json.dumps(claims).encode(), header).decode()


async def status(client: httpx2.AsyncClient, bearer: str) -> int:
    """What a list request with this token is answered; it needs an identity and no tool server."""
    message = modern_message("tools/list", {})
    answer = await client.post("/mcp", json=message, headers=modern_headers(message, bearer))
    return answer.status_code


@contextmanager
def flooded(tmp_path: Path) -> Iterator[Gateway]:
    issuer = Issuer().start()
    try:
        with gateway(tmp_path, issuer, {}) as running:
            yield running
    finally:
        issuer.stop()


async def test_a_thousand_random_kids_cost_three_fetches_and_no_honest_call(tmp_path: Path) -> None:
    with flooded(tmp_path) as running:
        audience = f"{running.url}/mcp"
        honest = running.token()
        forged = [
            token(running.issuer.url, audience, "evil", f"random-{number}")
            for number in range(1000)
        ]
        places = asyncio.Semaphore(16)
        async with httpx2.AsyncClient(base_url=running.url, verify=NO_TLS, timeout=30) as client:

            async def ask(bearer: str) -> int:
                async with places:
                    return await status(client, bearer)

            async def keep_calling(done: asyncio.Event) -> list[int]:
                found = []
                while not done.is_set():
                    # A token of its own each time: one remembered would need no key at all.
                    found.append(await status(client, running.token()))
                return found

            done = asyncio.Event()
            meanwhile = asyncio.create_task(keep_calling(done))
            answers = await asyncio.gather(*map(ask, forged))
            done.set()
            assert set(answers) == {401}
            calls = await meanwhile
            assert len(calls) > 5 and set(calls) == {200}
            assert await status(client, honest) == 200
        assert running.issuer.fetches <= 3


ISSUED: Mapping[str, Answer] = {
    **{name: POISON[name] for name in ("html", "20 MB", "only oct", "only bad members", "garbage")},
    "silent": silent,
    "drip": drip,
}
"""What each of seven issuers answers when asked for its keys."""


def publish(idp: Idp, name: str, jwks: Answer) -> str:
    """Give the issuer at path `name` a discovery document and an answer for its keys; its URL."""
    place = name.replace(" ", "-")
    issuer = f"{idp.url}/{place}"
    document = {"issuer": issuer, "jwks_uri": f"{issuer}/jwks"}
    idp.routes[f"/{place}/.well-known/openid-configuration"] = reply(json.dumps(document).encode())
    idp.routes[f"/{place}/jwks"] = jwks
    return issuer


def issuers_config(issuers: Mapping[str, str], url: str) -> dict[str, Any]:
    return {
        "issuers": {
            alias: {"issuer": issuer, "audiences": [f"{url}/mcp"]}
            for alias, issuer in issuers.items()
        },
        "agents": {"planner": {"clients": [{"issuer": alias, **PLANNER} for alias in issuers]}},
    }


async def test_poisoned_issuers_at_the_start_stop_neither_the_gateway_nor_the_good_ones(
    tmp_path: Path,
) -> None:
    laptop = Issuer().start()
    async with serving() as idp, serving() as evil:
        evil.publish(jwk(ec_key("evil")))
        bad = [None, {"kty": "oct", "k": "AAAA", "kid": "k1"}, {**jwk(ec_key("d")), "d": "AAAA"}]
        answers = {
            **ISSUED,
            "good": key_set(jwk(ec_key("acme"))),
            "one bad member": key_set(*bad, jwk(ec_key("acme"))),
            "redirect": reply(b"", "302 Found", f"Location: {evil.url}/jwks"),
        }
        found = {name: publish(idp, name, answer) for name, answer in answers.items()}
        aliases = {name: f"i{number}" for number, name in enumerate(found)}
        running = Gateway(tmp_path, laptop, {})
        url = f"http://127.0.0.1:{free_port()}"
        named = {aliases[name]: issuer for name, issuer in found.items()}
        running.config = {**base_config(laptop, url, tmp_path), **issuers_config(named, url)}
        try:
            await asyncio.to_thread(running.start)
            async with httpx2.AsyncClient(base_url=url, verify=NO_TLS, timeout=30) as client:
                for key, expected in (("acme", {"good", "one bad member"}), ("evil", set())):
                    asked = {
                        name: status(client, token(issuer, f"{url}/mcp", key))
                        for name, issuer in found.items()
                    }
                    said = dict(zip(asked, await asyncio.gather(*asked.values()), strict=True))
                    assert set(said.values()) <= {200, 401}
                    assert {name for name, code in said.items() if code == 200} == expected
            assert not evil.hits

        finally:
            await asyncio.to_thread(running.stop)
            laptop.stop()


@asynccontextmanager
async def app_with(
    idp: Idp, clock: Clock, state: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[httpx2.AsyncClient]:
    """The application over an issuer whose keys age by `clock`; a client of it."""
    monkeypatch.setattr(issuer_keys, "OidcKeys", partial(OidcKeys, clock=clock, deadline=0.2))
    raw = {"version": 1, "public_url": HERE, "dev": True, "state_dir": str(state)}
    app = await build(Config.model_validate(raw | issuers_config({"laptop": idp.url}, HERE)))
    transport = httpx2.ASGITransport(app.site)
    try:
        async with httpx2.AsyncClient(transport=transport, base_url=HERE) as client:
            yield client
    finally:
        await app.close()


async def test_keys_once_known_outlive_whatever_poison_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    async with serving() as idp, serving() as evil:
        evil.publish(jwk(ec_key("evil")))
        idp.publish(jwk(ec_key("acme")))
        redirect = reply(b"", "302 Found", f"Location: {evil.url}/jwks")
        async with app_with(idp, clock, tmp_path, monkeypatch) as client:
            make = partial(token, idp.url, f"{HERE}/mcp")
            assert await status(client, make()) == 200
            for number, poison in enumerate([*ISSUED.values(), redirect]):
                idp.routes["/jwks"] = poison
                clock.now += 400
                # Tokens of their own: a remembered one asks for no key.
                assert await status(client, make(jti=f"honest-{number}")) == 200, number
                assert await status(client, make("evil", "evil")) == 401
                assert await status(client, make("evil")) == 401
            idp.publish(jwk(ec_key("new"), "k2"))
            clock.now += 400
            assert await status(client, make("new", "k2")) == 200
            assert not evil.hits
