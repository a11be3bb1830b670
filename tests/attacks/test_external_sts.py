"""Threat: an authorization server that gives another credential than was asked for, or a cache that does.

Whatever it answers, no tool is reached with it, the record says what differed, other servers go on, and
so does this one once the answer is right.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import anyio
import jwt
import pytest
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)

from tests.external_as import House, Twist
from tests.external_as import house as run_house
from tests.harness import wait_for

AGENT = "client-of-nobody"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with run_house(tmp_path_factory.mktemp("external")) as running:
        yield running


@pytest.fixture(autouse=True)
def honest_again(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "house" in request.fixturenames:
        running: House = request.getfixturevalue("house")
        running.server.reset()
        assert "hello" in running.call().text
        assert "hello" in running.call(tool="time__echo").text


def claim(**changes: Any) -> Twist:
    return lambda claims, answer: claims.update(changes)


def said(**changes: Any) -> Twist:
    return lambda claims, answer: answer.update(changes)


def unsigned(claims: dict[str, Any], answer: dict[str, Any]) -> None:
    answer["access_token"] = jwt.encode(claims, "", "none", headers={"typ": "at+jwt"})


def under_our_own_secret(claims: dict[str, Any], answer: dict[str, Any]) -> None:
    secret = "gateway-secret-gateway-secret-gateway"
    answer["access_token"] = jwt.encode(claims, secret, "HS256", headers={"kid": "k1"})


def cut(claims: dict[str, Any], answer: dict[str, Any]) -> None:
    def part(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    answer["access_token"] = f"{part({'alg': 'ES256', 'kid': 'k1'})}.{part(claims)}.{'A' * 86}"


def later(claims: dict[str, Any], answer: dict[str, Any]) -> None:
    claims["exp"] += 3600


def longer_answer(claims: dict[str, Any], answer: dict[str, Any]) -> None:
    answer["expires_in"] += 3600


LIES: dict[str, tuple[Twist, str]] = {
    "another subject": (claim(sub="bob"), "sub"),
    "no subject": (claim(sub=None), "sub"),
    "our own account": (claim(sub="gateway-account"), "sub"),
    "another audience": (claim(aud="time"), "aud"),
    "one audience more": (claim(aud=["tickets", "time"]), "aud"),
    "no audience": (claim(aud=None), "aud"),
    "more scope in the token": (claim(scope="tickets.use tickets.admin"), "scope"),
    "more scope in the answer": (said(scope="tickets.use tickets.admin"), "scope"),
    "a scope that is no string": (claim(scope={"tickets.use": True}), "scope"),
    "a longer life": (later, "exp"),
    "a longer life in the answer": (longer_answer, "exp"),
    "no end": (claim(exp=None), "exp"),
    "an end in the past": (claim(exp=int(time.time()) - 10), "exp"),
    "an agent nobody showed it": (claim(act={"sub": AGENT}), "act"),
    "an agent before ours": (claim(act={"sub": AGENT, "act": {"sub": "planner"}}), "act"),
    "an agent behind ours": (claim(act={"sub": "planner", "act": {"sub": AGENT}}), "act"),
    "an agent of another issuer": (claim(act={"iss": "https://evil", "sub": "planner"}), "act"),
    "an act that is no object": (claim(act="planner"), "act"),
    "a token of another issuer": (claim(iss="https://evil.example"), "access_token"),
    "an unsigned token": (unsigned, "access_token"),
    "a token under a shared secret": (under_our_own_secret, "access_token"),
    "a signature of zeros": (cut, "access_token"),
    "an opaque token": (said(access_token="0123456789abcdef"), "access_token"),
    "no token": (said(access_token=" "), "access_token"),
    "a token for a header of its own": (said(access_token="a\r\nX-Evil: 1"), "access_token"),
    "a bound token": (claim(cnf={"jkt": "x"}), "cnf"),
    "an ID token": (claim(nonce="n"), "nonce"),
    "a refresh token": (claim(typ="Refresh"), "typ"),
    "a token that is none for bearers": (said(token_type="DPoP"), "token_type"),
    "a refresh token by its type": (
        said(issued_token_type="urn:ietf:params:oauth:token-type:refresh_token"),
        "issued_token_type",
    ),
}


@pytest.mark.parametrize("name", LIES)
def test_another_credential_than_was_asked_for_goes_nowhere(house: House, name: str) -> None:
    twist, member = LIES[name]
    house.server.twist = twist
    error = house.refused()
    assert error["code"] == 46005
    difference = house.difference(error)
    assert difference["member"] == member
    assert difference.keys() == {"member", "expected", "got"}


def test_a_token_under_a_key_that_is_not_the_servers_goes_nowhere(house: House) -> None:
    house.server.sign_with_another_key()
    assert house.difference(house.refused())["member"] == "access_token"


def huge() -> Response:
    return StreamingResponse((b" " * 65536 for _ in range(320)), media_type="application/json")


def dripping() -> Response:
    async def drip() -> Any:
        for _ in range(200):
            yield b" "
            await anyio.sleep(0.02)

    return StreamingResponse(drip(), media_type="application/json")


ANSWERS: dict[str, Any] = {
    "html": lambda: HTMLResponse("<html>sign in</html>"),
    "redirect": lambda: RedirectResponse("/elsewhere", 307),
    "redirect by GET": lambda: RedirectResponse("http://169.254.169.254/token", 302),
    "20 MB": huge,
    "empty": lambda: Response(b""),
    "a list": lambda: JSONResponse([{"access_token": "x"}]),
    "broken": lambda: JSONResponse({"access_token": "x"}, 500),
    "an error that shouts": lambda: JSONResponse({"error": "<script>alert(1)</script>"}, 400),
    "an error with a token": lambda: JSONResponse({"error": "x", "access_token": "x"}),
    "two tokens": lambda: Response(
        b'{"access_token":"a","access_token":"b","token_type":"Bearer"}',
        media_type="application/json",
    ),
    "compressed": lambda: Response(b"\x1f\x8b", headers={"content-encoding": "gzip"}),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_that_is_none_fails_the_call_in_time(house: House, name: str) -> None:
    house.server.instead = ANSWERS[name]
    assert_fails_in_time(house)


def test_an_answer_without_end_fails_the_call_in_time(house: House) -> None:
    house.server.instead = dripping
    with house.impatient():
        assert_fails_in_time(house)


def assert_fails_in_time(house: House) -> None:
    asked, began = len(house.server.exchanges), time.monotonic()
    error = house.refused()
    assert error["code"] == 46005 and "authorization server" in error["message"]
    assert "script" not in json.dumps(error)
    assert time.monotonic() - began < 4
    assert len(house.server.exchanges) == asked + 1, "it was asked again, or somewhere else"


def test_one_users_token_never_serves_another(house: House) -> None:
    alice, bob = house.gw.token(), house.gw.token(sub="bob")
    for token, user in ((alice, "alice"), (bob, "bob"), (alice, "alice"), (bob, "bob")):
        assert "hello" in house.call(token).text
        sent = jwt.decode(house.bearer(), options={"verify_signature": False})
        assert sent["sub"] == user


def test_a_token_with_the_same_claims_and_another_signature_is_another(house: House) -> None:
    claims = {"jti": "same", "exp": int(time.time()) + 900, "iat": int(time.time())}
    first, second = house.gw.token(**claims), house.gw.token(**claims)
    assert first != second and first.split(".")[1] == second.split(".")[1]
    before = len(house.server.exchanges)
    house.call(first)
    house.call(second)
    assert len(house.server.exchanges) == before + 2


def test_a_refused_answer_is_not_kept(house: House) -> None:
    token = house.gw.token()
    house.server.twist = claim(sub="bob")
    house.refused(token)
    house.server.reset()
    assert "hello" in house.call(token).text


def test_an_answer_is_used_no_longer_than_the_server_says_less_a_margin(house: House) -> None:
    token = house.gw.token()

    def brief(claims: dict[str, Any], answer: dict[str, Any]) -> None:
        claims["exp"] = claims["iat"] + 8
        answer["expires_in"] = 8

    house.server.twist = brief
    before = len(house.server.exchanges)
    assert "hello" in house.call(token).text
    assert "hello" in house.call(token).text
    assert len(house.server.exchanges) == before + 2


def test_whoever_was_revoked_gets_nothing_out_of_the_cache(house: House) -> None:
    token = house.gw.token(sub="mallory")
    assert "hello" in house.call(token).text
    asked, reached = len(house.server.exchanges), len(house.seen("tools/call"))
    with house.gw.client() as client:
        form = {"token": token}
        done = client.post("/oauth/revoke", data=form, auth=("planner", "planner-secret-for-tests"))
        assert done.status_code == 200
    wait_for(lambda: house.call(token).status_code == 401, "the revocation")
    answer = house.call(token)
    assert answer.status_code == 401
    assert len(house.server.exchanges) == asked
    assert len(house.seen("tools/call")) <= reached + 1
    again = house.gw.token(sub="mallory")
    assert "hello" in house.call(again).text
    assert len(house.server.exchanges) == asked + 1


def test_what_was_revoked_while_the_server_thought_is_neither_sent_nor_kept(house: House) -> None:
    token, answers = house.gw.token(), []
    house.server.open.clear()
    asked = len(house.server.forms)
    calling = threading.Thread(target=lambda: answers.append(house.call(token)))
    calling.start()
    wait_for(lambda: len(house.server.forms) == asked + 1, "the exchange")
    before = len(house.seen("tools/call"))
    with house.gw.client() as client:
        form = {"token": token}
        client.post("/oauth/revoke", data=form, auth=("planner", "planner-secret-for-tests"))
    house.server.open.set()
    calling.join(10)
    assert answers[0].json()["error"]["code"] == 46003
    assert len(house.seen("tools/call")) == before


def test_neither_tokens_nor_secrets_show_anywhere(house: House) -> None:
    house.server.twist = claim(sub=house.server.token("tickets"))
    error = house.refused()
    assert house.difference(error)["got"] == "something like a token"
    log = [file for file in (house.gw.state / "log").rglob("*") if file.is_file()]
    text = b"".join(file.read_bytes() for file in log).decode("utf-8", "replace") + house.gw.output
    for token in house.server.issued:
        assert token.split(".")[-1] not in text and token.split(".")[1] not in text
    assert "gateway-secret" not in text
