"""What a browser is given to keep, and where it may be sent."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import Response

from agentgw.core.principal import Subject
from agentgw.core.sign_in import Flow, Person, Proven, SignedIn
from agentgw.errors import UpstreamFailed
from agentgw.http.browser import Browser, is_local
from agentgw.http.request import Scope
from agentgw.http.seal import Seal
from agentgw.registry.one_time import OneTime
from agentgw.registry.schema import open_database

pytestmark = pytest.mark.anyio
HERE = "https://gw.example.com"
IDP = "https://idp.example.com"
ALICE = Person(Subject("acme", "alice", "acme|alice"), frozenset({"acme:group:support"}), "Alice")


class Party:
    """Where people sign in, as far as sending them there goes."""

    issuer = IDP
    client_id = "agentgw"
    works = True

    async def authorization_url(self, flow: Flow) -> str:
        if not self.works:
            raise UpstreamFailed("it does not answer")
        return f"{IDP}/authorize?state={flow.state}"

    async def finish(self, answer: object, flow: Flow) -> Proven:
        return Proven(ALICE, None)


class Time:
    now = 1_795_400_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
def party() -> Party:
    return Party()


@pytest.fixture
def browser(tmp_path: Path, clock: Time, party: Party) -> Browser:
    secrets = OneTime(open_database(tmp_path / "state.db"))
    seal = Seal(bytes(32), os.urandom)
    return Browser(HERE, seal, secrets, lambda: party, lambda renewable: 3600, clock, os.urandom)


def scope(*cookies: str, **headers: str) -> Scope:
    pairs = {"host": "gw.example.com", **headers}
    lines = [(name.replace("_", "-").encode(), value.encode()) for name, value in pairs.items()]
    return {"type": "http", "headers": [*lines, *((b"cookie", each.encode()) for each in cookies)]}


def kept(response: Response) -> str:
    """The one cookie of an answer, as the browser sends it back."""
    return response.headers["set-cookie"].partition(";")[0]


async def session(browser: Browser, before: Scope | None = None) -> tuple[str, SignedIn]:
    response = Response()
    await browser.open_session(before or scope(), ALICE, IDP, response)
    person = await browser.signed_in(scope(kept(response)))
    assert person is not None
    return kept(response), person


async def test_cookies_are_host_bound_secure_lax_and_closed_to_scripts(browser: Browser) -> None:
    response = Response()
    await browser.open_session(scope(), ALICE, IDP, response)
    name, _, attributes = response.headers["set-cookie"].partition("=")
    assert name == "__Host-agentgw"
    words = {word.strip().lower() for word in attributes.split(";")[1:]}
    assert words == {"httponly", "max-age=3600", "path=/", "samesite=lax", "secure"}
    away = await browser.send_to_sign_in(scope(), "/account")
    assert away.headers["set-cookie"].startswith("__Host-agentgw-signin=")


async def test_a_session_is_what_the_sign_in_established(browser: Browser, clock: Time) -> None:
    _, person = await session(browser)
    assert (person.subject, person.groups, person.name) == (ALICE.subject, ALICE.groups, "Alice")
    assert person.exp == int(clock.now) + 3600


async def test_a_session_ends(browser: Browser, clock: Time) -> None:
    cookie, _ = await session(browser)
    clock.now += 3599
    assert await browser.signed_in(scope(cookie)) is not None
    clock.now += 1
    assert await browser.signed_in(scope(cookie)) is None


async def test_a_session_ends_where_people_sign_in_elsewhere(
    browser: Browser, party: Party
) -> None:
    cookie, _ = await session(browser)
    party.issuer = "https://other.example"
    assert await browser.signed_in(scope(cookie)) is None


async def test_a_form_belongs_to_one_session_and_one_purpose(browser: Browser) -> None:
    cookie, alice = await session(browser)
    _, other = await session(browser)
    token = browser.csrf(alice, "/account/stop")
    assert browser.check_csrf(scope(cookie), alice, "/account/stop", token)
    assert browser.check_csrf(scope(cookie, origin=HERE), alice, "/account/stop", token)
    assert not browser.check_csrf(scope(), alice, "/oauth/sign-out", token)
    assert not browser.check_csrf(scope(), other, "/account/stop", token)
    assert not browser.check_csrf(scope(), alice, "/account/stop", None)
    assert not browser.check_csrf(scope(origin="null"), alice, "/account/stop", token)
    cross = scope(sec_fetch_site="cross-site")
    assert not browser.check_csrf(cross, alice, "/account/stop", token)


async def test_a_browser_remembers_a_few_sign_ins_in_a_cookie_that_fits(browser: Browser) -> None:
    cookie, thens = "", [f"/account?{'x' * length}" for length in (1900, 9, 900, 5, 900, 900)]
    for then in thens:
        response = await browser.send_to_sign_in(scope(*([cookie] if cookie else [])), then)
        cookie = kept(response)
        assert len(response.headers["set-cookie"]) < 4096
    assert [flow.then for flow in browser.flows(scope(cookie))] == thens[-3:]
    for _ in range(20):
        cookie = kept(await browser.send_to_sign_in(scope(cookie), "/a"))
    flows = browser.flows(scope(cookie))
    assert len(flows) == len({flow.state for flow in flows}) == 8
    response = Response()
    browser.drop_flow(scope(cookie), flows[3], response)
    assert flows[3].state not in {flow.state for flow in browser.flows(scope(kept(response)))}


async def test_a_sign_in_may_take_ten_minutes(browser: Browser, clock: Time) -> None:
    cookie = kept(await browser.send_to_sign_in(scope(), "/account"))
    clock.now += 599
    assert len(browser.flows(scope(cookie))) == 1
    clock.now += 1
    assert browser.flows(scope(cookie)) == []


async def test_nobody_is_sent_to_an_issuer_that_cannot_be_used(
    browser: Browser, party: Party
) -> None:
    party.works = False
    response = await browser.send_to_sign_in(scope(), "/account")
    assert response.status_code == 503 and "set-cookie" not in response.headers


@pytest.mark.parametrize(
    "then",
    ["", "account", "//evil.example", "https://evil.example", "/\\evil.example", "/a b", "/a\r\nb",
     "/a\tb", "/é", '/"', "/<", "/" + "x" * 2000, "/a#b", "\\\\evil", "/a\x00"],
)  # fmt: skip
async def test_what_is_no_path_of_ours_is_refused(browser: Browser, then: str) -> None:
    assert not is_local(then)
    assert (await browser.send_to_sign_in(scope(), then)).status_code == 400


@given(st.text(alphabet=st.sampled_from("/\\.@:?#%aé \t\n[]|;*&=+-_~'\"<>"), max_size=12))
def test_a_path_of_ours_never_leads_elsewhere(then: str) -> None:
    if is_local(then):
        assert urlsplit(urljoin(f"{HERE}/oauth/callback", then)).netloc == "gw.example.com"
        assert not any(character in then for character in '\\\t\n "<>')
