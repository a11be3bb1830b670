"""Signing in with a browser, at a real issuer, through a real gateway."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from starlette.responses import JSONResponse

from agentgw.app.opening import build
from agentgw.config import Config
from agentgw.demo.issuer import Issuer as LaptopIssuer
from agentgw.registry.revocations import Revocations
from tests.harness import wait_for
from tests.people import Place, Visitor, login_config, place, query_of
from tests.scripted_issuer import scene


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture
def browser() -> Iterator[Visitor]:
    with Visitor() as opened:
        yield opened


def test_a_user_signs_in_and_meets_their_account(here: Place, browser: Visitor) -> None:
    page = here.sign_in(browser)
    assert page.status == 200 and page.url == f"{here.url}/account"
    assert "Signed in as Alice" in page.words
    again = browser.open(f"{here.url}/account")
    assert again.url == f"{here.url}/account" and "Alice" in again.words


def test_who_signs_in_is_on_record(here: Place, browser: Visitor) -> None:
    here.sign_in(browser, "bob")
    record = here.gateway.records()[-1]
    assert (record["method"], record["decision"]) == ("login/sign-in", "allow")
    assert record["subject"] == {"iss": "laptop", "sub": "bob"}
    assert record["source"] == "127.0.0.1"


def test_the_issuer_is_asked_for_a_code_with_pkce_state_and_nonce(
    here: Place, browser: Visitor
) -> None:
    page = browser.open(f"{here.url}/account")
    asked = query_of(page.url)
    assert asked["redirect_uri"] == here.callback and asked["response_type"] == "code"
    assert asked["code_challenge_method"] == "S256"
    assert min(len(asked[name]) for name in ("state", "nonce", "code_challenge")) >= 22


def test_what_a_browser_keeps_is_closed_to_scripts_and_says_nothing(
    here: Place, browser: Visitor
) -> None:
    here.sign_in(browser)
    cookies = list(browser.client.cookies.jar)
    assert len(cookies) == 1, "the sign-in is done, so its cookie is gone"
    assert "alice" not in (cookies[0].value or "") and len(cookies[0].value or "") < 200
    answer = browser.client.get(f"{here.url}/account")
    assert "set-cookie" not in answer.headers


def test_every_cookie_is_lax_and_http_only(here: Place) -> None:
    answer = httpx2.get(f"{here.url}/account", trust_env=False)
    assert answer.status_code == 303
    assert re.search(
        r"; HttpOnly; Max-Age=600; Path=/; SameSite=lax$", answer.headers["set-cookie"]
    )


def test_signing_out_ends_the_session_everywhere(here: Place, browser: Visitor) -> None:
    page = here.sign_in(browser)
    copied = browser.cookies()
    out = browser.submit(page, page.form("/oauth/sign-out"))
    assert out.status == 200 and "signed out" in out.words
    assert browser.cookies() == {}
    with httpx2.Client(cookies=copied, trust_env=False) as thief:
        assert thief.get(f"{here.url}/account").status_code == 303


def test_who_cannot_be_signed_out_now_is_told_so(here: Place, browser: Visitor) -> None:
    page = here.sign_in(browser)
    engine = here.engine()
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE one_time RENAME TO out_of_reach")
    try:
        answer = browser.submit(page, page.form("/oauth/sign-out"))
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE out_of_reach RENAME TO one_time")
        engine.dispose()
    assert answer.status == 503 and "still signed in" in answer.words
    assert browser.open(f"{here.url}/account").status == 200


def test_two_tabs_sign_in_one_after_the_other(here: Place, browser: Visitor) -> None:
    first, second = browser.open(f"{here.url}/account"), browser.open(f"{here.url}/account")
    for page in (first, second):
        password = here.issuer.passwords["alice"]
        done = browser.submit(page, page.form("/authorize"), user="alice", password=password)
        assert done.url == f"{here.url}/account" and done.status == 200


def test_a_wrong_password_signs_nobody_in(here: Place, browser: Visitor) -> None:
    page = browser.open(f"{here.url}/account")
    form = page.form("/authorize")
    again = browser.submit(page, form, user="alice", password=here.issuer.passwords["bob"])
    assert again.status == 403 and "not the password" in again.words
    assert browser.open(f"{here.url}/account").url.startswith(here.issuer.url)


def test_a_user_who_declines_is_told_so(here: Place, browser: Visitor) -> None:
    state = query_of(browser.open(f"{here.url}/account").url)["state"]
    answer = f"{here.callback}?error=access_denied&state={state}&iss={here.issuer.url}"
    page = browser.open(answer)
    assert page.status == 403 and "You did not sign in" in page.words
    assert browser.open(f"{here.url}/account").url.startswith(here.issuer.url)


def test_a_revoked_user_does_not_get_in(here: Place) -> None:
    engine = here.engine()
    revocations = Revocations(engine)
    revocations.revoke_party("subject", "laptop|bob")

    def is_out() -> bool:
        with Visitor() as bob:
            return "blocked your account" in here.sign_in(bob, "bob").words

    try:
        wait_for(is_out, "the gateway to know")
        record = here.gateway.records()[-1]
        assert (record["decision"], record["reason"]) == ("deny", "revoked")
    finally:
        revocations.lift("subject", "laptop|bob", int(time.time()))
        revocations.close()
        engine.dispose()


@pytest.mark.parametrize(
    "query",
    ["", "?", "?code=x", "?state=x", "?code=x&state=y", "?state=", "?code=&state=",
     "?error=access_denied", "?state=x&state=y", "?code=%ff&state=x", "?" + "a" * 7000],
)  # fmt: skip
def test_a_callback_out_of_nothing_is_refused_on_a_page(here: Place, query: str) -> None:
    answer = httpx2.get(here.callback + query, trust_env=False)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/oauth/callback"), ("GET", "/oauth/sign-out"), ("GET", "/account/stop"),
     ("PUT", "/account"), ("POST", "/account")],
)  # fmt: skip
def test_other_methods_are_refused(here: Place, method: str, path: str) -> None:
    assert httpx2.request(method, here.url + path, trust_env=False).status_code == 405


def test_localhost_is_sent_to_where_its_cookies_will_be(here: Place) -> None:
    port = here.url.rpartition(":")[2]
    answer = httpx2.get(f"http://localhost:{port}/account", trust_env=False)
    assert answer.status_code == 303 and answer.headers["location"] == f"{here.url}/account"


def test_a_session_lasts_over_a_restart_and_ends_when_users_sign_in_elsewhere(
    tmp_path: Path,
) -> None:
    with place(tmp_path) as here, Visitor() as browser:
        here.sign_in(browser)
        here.gateway.stop()
        here.gateway.start()
        assert browser.open(f"{here.url}/account").status == 200
        login = here.gateway.config.pop("login")
        here.gateway.reload()
        page = browser.open(f"{here.url}/account")
        assert page.status == 404 and "no login configured" in page.words
        here.gateway.config["login"] = login
        here.gateway.reload()
        assert "Alice" in browser.open(f"{here.url}/account").words
        other = {"issuer": "http://127.0.0.1:9/other", "audiences": ["x"]}
        here.gateway.config["issuers"] = {
            "laptop": here.gateway.config["issuers"]["laptop"],
            "o": other,
        }
        here.gateway.config["login"] = login | {"issuer": "o"}
        here.gateway.reload()
        page = browser.open(f"{here.url}/account")
        assert page.status == 503 and "not possible now" in page.words


@pytest.mark.anyio
async def test_one_worker_finishes_what_another_began(tmp_path: Path) -> None:
    here = "http://127.0.0.1:7117"
    with LaptopIssuer() as issuer, Visitor() as visitor:
        config = Config.model_validate(login_config(issuer, here, tmp_path))
        workers = [await build(config, number) for number in (1, 2)]
        first, second = (
            httpx2.AsyncClient(transport=httpx2.ASGITransport(app.site), base_url=here)
            for app in workers
        )
        async with first, second:
            begun = await first.get("/account")
            page = await asyncio.to_thread(visitor.open, begun.headers["location"])
            form, password = page.form("/authorize"), issuer.passwords["alice"]
            answer = await asyncio.to_thread(
                visitor.submit, page, form, here, user="alice", password=password
            )
            second.cookies.update(begun.cookies)
            done = await second.get(answer.headers["location"])
            assert done.status_code == 303 and done.headers["location"] == "/account"
            again = await first.get(answer.headers["location"])
            assert again.status_code == 400 and "used before" in again.text
            first.cookies = done.cookies
            assert "Signed in as <strong>Alice" in (await first.get("/account")).text
        for app in workers:
            await app.close()


def test_who_may_not_have_offline_access_signs_in_without(tmp_path: Path) -> None:
    with scene(tmp_path) as where, Visitor() as browser:
        issuer = where.issuer
        issuer.metadata = {"scopes_supported": ["openid", "offline_access"]}
        issuer.token = lambda _: JSONResponse({"error": "not_allowed"}, 400)
        where.begin(browser)
        assert query_of(browser.passed[-1])["scope"] == "openid offline_access"
        browser.open(where.answer(browser), until=issuer.url)
        asked = query_of(browser.passed[-1])
        assert asked["scope"] == "openid" and asked["redirect_uri"].endswith("/oauth/callback")
        issuer.token, issuer.nonce = None, asked["nonce"]
        browser.open(where.answer(browser))
        assert where.is_signed_in(browser)


def test_offline_access_that_was_configured_is_not_gone_without(tmp_path: Path) -> None:
    with scene(tmp_path, offline_access=True) as where, Visitor() as browser:
        where.issuer.token = lambda _: JSONResponse({"error": "not_allowed"}, 400)
        page = where.sign_in(browser)
        assert page.status == 400 and "did not take the code back" in page.words
