"""Threat: the issuer's edge is hostile, broken or gone; or somebody floods it through us.

Whatever it answers, known keys go on working, strangers stay strangers, and it is asked rarely.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest

from agentgw.errors import InvalidToken
from agentgw.identity.oidc import IssuerUnusable, OidcKeys, check_url, well_known_urls
from agentgw.identity.verifier import TokenVerifier
from tests.identity.forge import NOW, FixedKeys, acme_rules, acme_token, build, ec_key, jwk, rsa_key

pytestmark = pytest.mark.anyio
Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]
HEADER = {"alg": "ES256", "kid": "k1", "typ": "at+jwt"}


def reply(body: bytes, status: str = "200 OK", *headers: str) -> Answer:
    async def send(writer: asyncio.StreamWriter) -> None:
        lines = [
            f"HTTP/1.1 {status}",
            f"Content-Length: {len(body)}",
            "Connection: close",
            *headers,
        ]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await writer.drain()

    return send


def key_set(*members: Any) -> Answer:
    return reply(json.dumps({"keys": list(members)}).encode())


async def endless(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{")
    for _ in range(20 * 1024):
        writer.write(b" " * 1024)
        await writer.drain()


async def drip(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.02)


async def silent(writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def garbage(writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x00\xff\x16\x03garbage\r\n\r\n")
    await writer.drain()


@dataclass
class Idp:
    """An issuer on a loopback port whose every answer a test may choose."""

    url: str = ""
    routes: dict[str, Answer] = field(default_factory=dict)
    hits: Counter[str] = field(default_factory=Counter)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            path = request.split(b" ", 2)[1].decode()
            self.hits[path] += 1
            await self.routes.get(path, reply(b"no", "404 Not Found"))(writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def publish(self, *members: Any) -> None:
        document = {"issuer": self.url, "jwks_uri": f"{self.url}/jwks"}
        self.routes["/.well-known/openid-configuration"] = reply(json.dumps(document).encode())
        self.routes["/jwks"] = key_set(*members)


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Stage:
    idp: Idp
    clock: Clock
    keys: OidcKeys
    door: TokenVerifier = field(init=False)

    def __post_init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """A new verifier, which remembers no token; the keys stay."""
        rules = acme_rules(issuer=self.idp.url)
        self.door = build(rules, keys={"acme": self.keys, "other": FixedKeys([])})

    def token(self, key: Any = None, **header: Any) -> bytes:
        return acme_token(key, {**HEADER, **header}, iss=self.idp.url)

    async def works(self, key: Any = None, **header: Any) -> bool:
        self.forget()
        try:
            await self.door.authenticate(self.token(key, **header), NOW)
        except InvalidToken:
            return False
        return True


@asynccontextmanager
async def serving() -> AsyncIterator[Idp]:
    idp = Idp()
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(idp.handle(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    idp.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield idp
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


@asynccontextmanager
async def staged(deadline: float = 3.0, **options: Any) -> AsyncIterator[Stage]:
    async with serving() as idp, httpx2.AsyncClient(trust_env=False) as client:
        idp.publish(jwk(ec_key()))
        clock = Clock()
        keys = OidcKeys(idp.url, client, dev=True, clock=clock, deadline=deadline, **options)
        yield Stage(idp, clock, keys)
        await keys.aclose()


POISON: dict[str, Answer] = {
    "server error": reply(b"oops", "500 Internal Server Error"),
    "html": reply(b"<html>sign in</html>"),
    "empty body": reply(b""),
    "empty set": key_set(),
    "keys is no list": reply(b'{"keys": {"k1": {}}}'),
    "a list": reply(b"[]"),
    "duplicate members": reply(b'{"keys": [], "keys": []}'),
    "deep": reply(b"[" * 100_000),
    "only oct": key_set({"kty": "oct", "k": "c2VjcmV0", "kid": "evil", "alg": "HS256"}),
    "only bad members": key_set(None, 7, [], "x", {"kty": "RSA", "n": "!", "e": "AQAB"}),
    "20 MB": endless,
    "declared compression": reply(b"\x1f\x8b", "200 OK", "Content-Encoding: gzip"),
    "hang up": hang_up,
    "garbage": garbage,
}


@pytest.mark.parametrize("name", POISON)
async def test_known_keys_survive_a_poisoned_answer(name: str) -> None:
    async with staged() as stage:
        assert await stage.works()
        stage.idp.routes["/jwks"] = POISON[name]
        for _ in range(3):
            stage.clock.now += 400
            assert await stage.works()
            assert stage.keys.problem is not None
            assert not await stage.works(ec_key("evil"), kid="evil")
        stage.idp.publish(jwk(ec_key()))
        stage.clock.now += 400
        assert await stage.works()
        assert stage.keys.problem is None


@pytest.mark.parametrize("answer", [drip, silent])
async def test_a_slow_issuer_costs_its_deadline_and_no_key(answer: Answer) -> None:
    async with staged(deadline=0.5) as stage:
        assert await stage.works()
        stage.idp.routes["/jwks"] = answer
        stage.clock.now += 400
        async with asyncio.timeout(5):
            assert await stage.works()
        assert stage.keys.problem == "it did not answer within 0.5 seconds"


async def test_a_redirect_is_not_followed() -> None:
    async with staged() as stage, serving() as evil:
        evil.publish(jwk(ec_key("evil")))
        assert await stage.works()
        for status in ("301 Moved Permanently", "302 Found", "307 Temporary Redirect"):
            location = f"Location: {evil.url}/jwks"
            for path in ("/jwks", "/.well-known/openid-configuration"):
                stage.idp.routes[path] = reply(b"", status, location)
            stage.clock.now += 400
            assert not await stage.works(ec_key("evil"))
            assert await stage.works()
        assert not evil.hits


async def test_one_bad_member_does_not_hide_the_good_ones() -> None:
    async with staged() as stage:
        bad = [
            None, {}, {"kty": "EC"}, {"kty": "XX", "kid": "k1"}, jwk(rsa_key(1024), "k9"),
            {"kty": "oct", "k": "AAAA", "kid": "k1"}, {**jwk(ec_key("d")), "d": "AAAA"},
            jwk(ec_key("enc"), use="enc"), {"kty": "EC", "crv": "P-256", "x": 1, "y": []},
        ]  # fmt: skip
        stage.idp.publish(*bad, jwk(ec_key()))
        assert await stage.works()


async def test_two_keys_of_one_name_are_a_riddle_we_do_not_guess() -> None:
    async with staged() as stage:
        stage.idp.publish(jwk(ec_key("evil")), jwk(ec_key()))
        assert not await stage.works()
        stage.idp.publish(jwk(rsa_key(), alg="RS256"), jwk(ec_key()))
        stage.clock.now += 400
        assert await stage.works()


async def test_a_token_without_kid_needs_a_set_with_one_fitting_key() -> None:
    async with staged() as stage:
        token = acme_token(header={"alg": "ES256", "typ": "at+jwt"}, iss=stage.idp.url)
        assert await stage.door.authenticate(token, NOW)
        stage.idp.publish(jwk(ec_key()), jwk(ec_key("second"), "k2"))
        stage.clock.now += 400
        stage.forget()
        with pytest.raises(InvalidToken):
            await stage.door.authenticate(token, NOW)


async def test_a_thousand_random_kids_cause_three_fetches_at_most() -> None:
    async with staged() as stage:
        forged = [stage.token(ec_key("evil"), kid=f"random-{number}") for number in range(1000)]
        results = await asyncio.gather(
            *(stage.door.authenticate(token, NOW) for token in forged[:500]), return_exceptions=True
        )
        for token in forged[500:]:
            with pytest.raises(InvalidToken):
                await stage.door.authenticate(token, NOW)
        assert all(isinstance(result, InvalidToken) for result in results)
        assert sum(stage.idp.hits.values()) <= 3
        assert await stage.works()
        stage.clock.now += 31
        for token in forged:
            with pytest.raises(InvalidToken):
                await stage.door.authenticate(token, NOW)
        assert stage.idp.hits["/jwks"] == 2


async def test_an_empty_set_does_not_lift_the_cool_down() -> None:
    async with staged() as stage:
        assert await stage.works()
        stage.idp.routes["/jwks"] = key_set()
        stage.clock.now += 31
        for number in range(50):
            assert not await stage.works(ec_key("evil"), kid=f"random-{number}")
        assert stage.idp.hits["/jwks"] == 2
        assert await stage.works()


async def test_callers_at_once_share_one_fetch() -> None:
    async with staged() as stage:
        tokens = [acme_token(header=HEADER, iss=stage.idp.url, jti=str(n)) for n in range(50)]
        await asyncio.gather(*(stage.door.authenticate(token, NOW) for token in tokens))
        assert stage.idp.hits == {"/.well-known/openid-configuration": 1, "/jwks": 1}


async def test_a_caller_who_leaves_does_not_take_the_fetch_along() -> None:
    async with staged() as stage:
        arrived, gate = asyncio.Event(), asyncio.Event()
        answer = stage.idp.routes["/jwks"]

        async def held(writer: asyncio.StreamWriter) -> None:
            arrived.set()
            await gate.wait()
            await answer(writer)

        stage.idp.routes["/jwks"] = held
        leaver = asyncio.create_task(stage.works())
        stayer = asyncio.create_task(stage.works())
        await arrived.wait()
        leaver.cancel()
        gate.set()
        assert await stayer
        assert stage.idp.hits["/jwks"] == 1


async def test_a_new_key_works_within_the_cool_down() -> None:
    async with staged() as stage:
        assert await stage.works()
        stage.idp.publish(jwk(ec_key()), jwk(ec_key("new"), "k2"))
        assert not await stage.works(ec_key("new"), kid="k2")
        stage.clock.now += 30
        assert await stage.works(ec_key("new"), kid="k2")
        assert await stage.works()


async def test_the_first_unknown_key_is_asked_for_at_once_and_the_next_within_the_cool_down() -> (
    None
):
    async with staged() as stage:
        assert await stage.works()
        stage.idp.publish(jwk(ec_key()), jwk(ec_key("new"), "k2"))
        stage.clock.now += 2
        assert await stage.works(ec_key("new"), kid="k2")
        stage.idp.publish(jwk(ec_key()), jwk(ec_key("newer"), "k3"))
        stage.clock.now += 29
        assert not await stage.works(ec_key("newer"), kid="k3")
        assert stage.idp.hits["/jwks"] == 2
        stage.clock.now += 1
        assert await stage.works(ec_key("newer"), kid="k3")


async def test_a_removed_key_is_refused_within_five_minutes_of_its_removal() -> None:
    async with staged() as stage:
        assert await stage.works()
        stage.idp.publish(jwk(ec_key("new"), "k2"))
        stage.clock.now += 299
        assert await stage.works()
        stage.clock.now += 1
        assert not await stage.works()
        assert await stage.works(ec_key("new"), kid="k2")


async def test_keys_are_refreshed_behind_the_callers_back_before_they_are_too_old() -> None:
    async with staged() as stage:
        assert await stage.works()
        asked = asyncio.Event()
        answer = stage.idp.routes["/jwks"]

        async def noticed(writer: asyncio.StreamWriter) -> None:
            asked.set()
            await answer(writer)

        stage.idp.routes["/jwks"] = noticed
        stage.clock.now += 240
        assert await stage.works()
        async with asyncio.timeout(3):
            await asked.wait()


async def test_an_issuer_absent_at_the_start_is_refused_with_its_reason_and_recovers() -> None:
    async with staged() as stage:
        stage.idp.routes.clear()
        assert await stage.keys.warm() == "it answered 404"
        with pytest.raises(InvalidToken, match="keys of the token's issuer are not available"):
            await stage.door.authenticate(stage.token(), NOW)
        before = sum(stage.idp.hits.values())
        assert not await stage.works()
        assert sum(stage.idp.hits.values()) == before
        stage.idp.publish(jwk(ec_key()))
        stage.clock.now += 5
        assert await stage.works()
        assert await stage.keys.warm() is None


async def test_a_refused_connection_is_a_problem_not_a_crash() -> None:
    async with serving() as idp:
        url = idp.url
    async with httpx2.AsyncClient(trust_env=False) as client:
        keys = OidcKeys(url, client, dev=True)
        assert await keys.warm() == "it cannot be reached (ConnectError)"
        with pytest.raises(InvalidToken):
            await keys.find("k1", "ES256")


@pytest.mark.parametrize("change", ["/", "/x", "#"])
async def test_metadata_of_another_issuer_is_not_believed(change: str) -> None:
    async with staged() as stage:
        document = {"issuer": stage.idp.url + change, "jwks_uri": f"{stage.idp.url}/jwks"}
        answer = reply(json.dumps(document).encode())
        stage.idp.routes["/.well-known/openid-configuration"] = answer
        stage.idp.routes["/.well-known/oauth-authorization-server"] = answer
        assert not await stage.works()
        assert stage.idp.hits["/jwks"] == 0


async def test_oauth_metadata_serves_where_openid_configuration_is_absent() -> None:
    async with staged() as stage:
        found = stage.idp.routes.pop("/.well-known/openid-configuration")
        stage.idp.routes["/.well-known/oauth-authorization-server"] = found
        assert await stage.works()


async def test_a_configured_jwks_uri_needs_no_discovery() -> None:
    async with serving() as idp, httpx2.AsyncClient(trust_env=False) as client:
        idp.routes["/keys"] = key_set(jwk(ec_key()))
        keys = OidcKeys(idp.url, client, dev=True, jwks_uri=f"{idp.url}/keys")
        assert (await keys.find("k1", "ES256")).kid == "k1"
        assert idp.hits == {"/keys": 1}


async def test_keys_that_moved_are_found_again() -> None:
    async with staged() as stage:
        assert await stage.works()
        document = {"issuer": stage.idp.url, "jwks_uri": f"{stage.idp.url}/moved"}
        stage.idp.routes["/.well-known/openid-configuration"] = reply(json.dumps(document).encode())
        del stage.idp.routes["/jwks"]
        stage.idp.routes["/moved"] = key_set(jwk(ec_key("new"), "k2"))
        stage.clock.now += 300
        assert await stage.works()
        stage.clock.now += 300
        assert await stage.works(ec_key("new"), kid="k2")


async def test_plain_http_and_loopback_are_never_asked_without_dev() -> None:
    async with serving() as idp, httpx2.AsyncClient(trust_env=False) as client:
        keys = OidcKeys(idp.url, client)
        assert "dev: true" in str(await keys.warm())
        assert not idp.hits


@pytest.mark.parametrize(
    "url",
    [
        "http://idp.example.com/jwks", "https://localhost/jwks", "https://127.0.0.1/jwks",
        "https://[::1]/jwks", "https://169.254.169.254/latest", "https://0.0.0.0/",
        "https://user@idp.example.com/", "file:///etc/passwd", "ftp://idp.example.com/", "",
        "https://", "https://[", "//idp.example.com/jwks",
    ],
)  # fmt: skip
async def test_refuses_urls_that_lead_elsewhere(url: str) -> None:
    with pytest.raises(IssuerUnusable):
        check_url(url, dev=False)
    check_url("https://idp.example.com/jwks", dev=False)


async def test_metadata_lies_where_the_rfcs_put_it() -> None:
    assert well_known_urls("https://idp.example.com/realms/acme") == (
        "https://idp.example.com/realms/acme/.well-known/openid-configuration",
        "https://idp.example.com/.well-known/oauth-authorization-server/realms/acme",
        "https://idp.example.com/.well-known/openid-configuration/realms/acme",
    )
    assert len(well_known_urls("https://idp.example.com")) == 2
