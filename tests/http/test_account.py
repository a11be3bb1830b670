"""`/account`: what a user sees there, and that what they stop is stopped."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from agentgw.core.consent import Consent
from agentgw.core.exchange_request import ACCESS_TOKEN, GRANT_TYPE
from tests.harness import allow_all, faulty_server, modern_headers, modern_message, wait_for
from tests.people import Page, Place, Visitor, place

BOUND_SECONDS = 1.0
LISTEN = modern_message("subscriptions/listen", {"notifications": {}}, 7)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with faulty_server() as upstream:
        servers = {
            "time": {"url": f"{upstream}/mcp/ok?as=time"},
            "endless": {"url": f"{upstream}/mcp/sse-endless?on=subscriptions/listen&as=endless"},
        }
        changes = {"servers": servers, "grants": allow_all("time", "endless")}
        with place(tmp_path_factory.mktemp("gateway"), changes) as running:
            yield running


@pytest.fixture
def browser() -> Iterator[Visitor]:
    with Visitor() as opened:
        yield opened


def stop(browser: Visitor, page: Page, login: str) -> Page:
    return browser.submit(page, page.form("/account/stop"), login=login)


def buttons(page: Page) -> list[str]:
    return [value for form in page.forms for name, value in form.buttons if name == "login"]


def hand_over(here: Place, token: str) -> str:
    """coder's token for /mcp, of work that planner passed on."""
    for agent, more in (
        ("planner", {"audience": f"{here.url}/a2a/coder"}),
        ("coder", {"resource": f"{here.url}/mcp"}),
    ):
        form = {
            "grant_type": GRANT_TYPE, "subject_token": token, "subject_token_type": ACCESS_TOKEN
        }  # fmt: skip
        with here.gateway.client() as client:
            answer = client.post(
                "/oauth/token", data={**form, **more}, auth=(agent, f"{agent}-secret-for-tests")
            )
        assert answer.status_code == 200, answer.text
        token = str(answer.json()["access_token"])
    return token


def works(here: Place, token: str) -> bool:
    return "result" in here.gateway.call("time__echo", token, text="x").text


def test_a_user_sees_their_own_logins_and_nobody_elses(here: Place, browser: Visitor) -> None:
    mine = here.let_in("planner", "bob", presenter="https://desk.example/client.json")
    theirs = here.let_in("planner", "alice")
    here.let_in("planner", "bob", jti="ended", exp=int(time.time()) - 1)
    here.let_in("planner", "bob", jti="no-login", kind="gateway")
    page = here.sign_in(browser, "bob")
    assert buttons(page) == [mine.jti]
    assert "https://desk.example/client.json" in page.words and "planner" in page.words
    assert theirs.jti not in page.html
    until = time.strftime("%Y-%m-%d %H:%M", time.gmtime(mine.exp))
    assert f"{until} UTC" in page.words


def test_a_user_sees_what_was_done_for_them_and_for_nobody_else(
    here: Place, browser: Visitor
) -> None:
    alice = here.token(here.let_in("planner"))
    assert works(here, alice)
    here.gateway.call("time__nothing", alice)
    here.sign_in(browser)

    def shown() -> str:
        return " ".join(browser.open(f"{here.url}/account").words.split())

    wait_for(lambda: "planner used time/echo done" in shown(), "the outcome to be shown")
    assert "refused" in shown()
    with Visitor() as other:
        assert "time/echo" not in here.sign_in(other, "bob").words


def test_a_user_sees_what_they_consented_to(here: Place, browser: Visitor) -> None:
    consent = Consent(
        frozenset({"time/echo", "time/now"}), frozenset({"endless"}), frozenset({"coder"})
    )
    here.let_in("planner", consent=consent)
    here.let_in("planner", consent=Consent(frozenset(), frozenset(), frozenset()))
    words = " ".join(here.sign_in(browser).words.split())
    assert "Tools time/echo , time/now Also all data of endless May pass work to coder" in words
    assert "Tools none May pass work to no other agent" in words


def test_what_no_program_took_up_is_marked_and_gone_in_ten_minutes(
    here: Place, browser: Visitor
) -> None:
    now, mark = int(time.time()), "the program has not taken it up yet"
    waiting = here.let_in("planner", "bob", iat=now - 590)
    here.let_in("planner", "bob", jti="left-lying", iat=now - 600)
    page = here.sign_in(browser, "bob")
    assert waiting.jti in buttons(page) and "left-lying" not in buttons(page)
    marked = page.words.count(mark)
    assert marked
    here.token(waiting)
    page = browser.open(f"{here.url}/account")
    assert waiting.jti in buttons(page) and page.words.count(mark) == marked - 1
    stop(browser, page, "all")


def test_what_others_chose_is_shown_as_text(here: Place, browser: Visitor) -> None:
    here.let_in("planner", presenter="<script>alert(1)</script>")
    page = here.sign_in(browser)
    assert "<script" not in page.html and "&lt;script&gt;" in page.html


def test_stopping_an_agent_ends_it_its_heirs_and_its_streams_within_a_second(
    here: Place, browser: Visitor
) -> None:
    login, other = here.let_in("planner"), here.let_in("planner")
    token, kept = here.token(login), here.token(other)
    passed_on = hand_over(here, token)
    ended: list[float] = []
    opened = threading.Event()

    def listen() -> None:
        with here.gateway.client() as client:
            headers = modern_headers(LISTEN, token)
            with client.stream("POST", "/mcp/endless", json=LISTEN, headers=headers) as answer:
                assert answer.status_code == 200
                for _ in answer.iter_raw():
                    opened.set()
        ended.append(time.monotonic())

    page = here.sign_in(browser)
    assert all(works(here, each) for each in (token, passed_on, kept))
    thread = threading.Thread(target=listen)
    thread.start()
    wait_for(opened.is_set, "the stream")
    since = time.monotonic()
    page = stop(browser, page, login.jti)
    assert not works(here, token) and not works(here, passed_on)
    thread.join(10)
    assert ended and ended[0] - since < BOUND_SECONDS
    assert page.url == f"{here.url}/account"
    assert login.jti not in buttons(page) and other.jti in buttons(page)
    assert works(here, kept)
    (record,) = [
        r for r in here.gateway.records() if (r.get("detail") or {}).get("login") == login.jti
    ]
    assert (record["method"], record["subject"]["sub"]) == ("login/stop", "alice")
    assert record["detail"]["descendants"] == 3, "a token, a hand-over and what came of it"


def test_all_are_stopped_at_once(here: Place, browser: Visitor) -> None:
    tokens = [here.token(here.let_in(agent, "bob")) for agent in ("planner", "coder")]
    page = here.sign_in(browser, "bob")
    page = stop(browser, page, "all")
    assert buttons(page) == [] and "None." in page.words
    assert not any(works(here, token) for token in tokens)


def test_nobody_stops_anothers_agents(here: Place, browser: Visitor) -> None:
    theirs = here.let_in("planner", "alice")
    token = here.token(theirs)
    here.let_in("planner", "bob")
    page = here.sign_in(browser, "bob")
    for login in (theirs.jti, f"{theirs.jti}-1", "", "no-such"):
        assert stop(browser, page, login).status == 200
    stop(browser, page, "all")
    assert works(here, token)


def test_who_is_not_signed_in_stops_nothing(here: Place, browser: Visitor) -> None:
    login = here.let_in("planner")
    page = here.sign_in(browser)
    with Visitor() as stranger:
        told = stop(stranger, page, login.jti)
    assert (told.status, told.links) == (403, ["/account"]) and "signed out" in told.words
    assert login.jti in buttons(browser.open(f"{here.url}/account"))


@pytest.mark.parametrize("path", ["/device", "/device/consent", "/account/stop"])
def test_a_form_whose_session_ended_is_told_so_on_the_spot(here: Place, path: str) -> None:
    answer = httpx2.post(f"{here.url}{path}", data={"user_code": "x"}, trust_env=False)
    assert answer.status_code == 403 and "signed out" in answer.text


def test_pages_that_cannot_be_made_say_so(tmp_path: Path) -> None:
    with place(tmp_path) as here, Visitor() as browser:
        here.sign_in(browser)
        engine = here.engine()
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE one_time")
        engine.dispose()
        page = browser.open(f"{here.url}/account")
        assert page.status == 503 and "not possible now" in page.words
        answer = httpx2.get(f"{here.callback}?code=x&state=y", trust_env=False)
        assert answer.status_code == 400
