"""Letting go of a connected account: only one's own, and then nobody uses it any more, anywhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from agentgw.core.connected import account_key
from agentgw.registry.schema import open_database
from agentgw.registry.vault import VaultRows
from tests.harness import NO_TLS, modern_call, modern_headers, wait_for
from tests.people import Form, Page
from tests.saas import House, UserBrowser
from tests.saas import house as run_house

BOUND_SECONDS = 1.0
ALONE: dict[str, Any] = {
    "grants": [
        {"users": ["*"], "agents": ["*"], "tools": ["saas/*"]},
        {
            "users": ["agent:coder"], "agents": ["coder"], "tools": ["saas/notes"],
            "account_of": "laptop|alice",
        },
    ],
    "agents": {
        "planner": {
            "clients": [{"issuer": "laptop", "client_id": "planner", "confidential": True}]
        },
        "coder": {"auth": {"secret": "coder-secret-for-tests"}, "client_credentials": {}},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with run_house(tmp_path_factory.mktemp("saas"), workers=2, **ALONE) as running:
        running.connect("first")
        running.wait_for_workers(2, "first")
        yield running


@pytest.fixture(autouse=True)
def honest_again(house: House) -> Iterator[None]:
    yield
    house.saas.reset()


def account_page(browser: UserBrowser) -> Page:
    page = Page(browser.open(f"{browser.gw.url}/account"))
    assert page.status == 200, page.words
    return page


def button(page: Page) -> Form:
    """The form of the one account that is connected."""
    return page.form("/account/disconnect")


def press(browser: UserBrowser, form: Form, **changes: str) -> httpx2.Response:
    """Post a form as the browser that shows it; `changes` go over its fields and button."""
    fields = {**form.fields, **dict(form.buttons), **changes}
    headers = {"origin": browser.gw.url, "sec-fetch-site": "same-origin"}
    return browser.http.post(form.action, data=fields, headers=headers)


def alone(house: House) -> dict[str, Any]:
    """The answer to coder, who acts for nobody and may use alice's account."""
    with house.gw.client() as client:
        form = {"grant_type": "client_credentials"}
        auth = ("coder", "coder-secret-for-tests")
        token = client.post("/oauth/token", data=form, auth=auth).json()["access_token"]
    answer: dict[str, Any] = house.gw.call("saas__notes", token).json()
    return answer


def test_a_user_sees_their_own_accounts_and_lets_go_of_one(house: House) -> None:
    house.connect("anna", "anna@saas")
    house.connect("carl", "carl@saas")
    browser = house.browser("anna")
    page = account_page(browser)
    assert "Connected accounts" in page.words and house.saas.url in page.words
    assert len(button(page).buttons) == 1
    answer = press(browser, button(page))
    assert answer.status_code == 200 and "saas is disconnected" in answer.text
    assert "could not be told" not in answer.text
    assert "Connected accounts" not in account_page(browser).words
    assert house.saas.given_up[-1]["token_type_hint"] == "refresh_token"
    assert "client_assertion" in house.saas.given_up[-1]
    assert house.link("anna").startswith(f"{house.gw.url}/oauth/connect/saas?link=")
    assert house.notes("carl") == "the notes of carl@saas"
    mine = [r for r in house.gw.records() if (r.get("subject") or {}).get("sub") == "anna"]
    steps = [r for r in mine if r["method"] in ("connect/disconnect", "connect/revoke")]
    assert [r["method"] for r in steps] == ["connect/disconnect", "connect/revoke"]
    assert [r["chain_assurance"] for r in steps] == [None, None], (
        "nothing of it goes to a tool server"
    )
    given_up = house.saas.given_up[-1]["token"].encode()
    written = b"".join(p.read_bytes() for p in house.gw.state.rglob("*") if p.is_file())
    assert given_up not in written + house.gw.output.encode()


def test_what_is_connected_anew_is_another_account(house: House) -> None:
    house.connect("nora", "nora@saas")
    browser = house.browser("nora")
    stale = button(account_page(browser))
    press(browser, stale)
    house.connect("nora", "nora2@saas")
    assert house.notes("nora") == "the notes of nora2@saas"
    assert press(browser, stale).status_code == 303, "its page is of the account before"
    assert house.notes("nora") == "the notes of nora2@saas"


def test_nobody_disconnects_anothers_account(house: House) -> None:
    house.connect("vera", "vera@saas")
    house.connect("mallory", "mallory@saas")
    engine = open_database(house.gw.state / "agentgw.db")
    ((place, connected),) = VaultRows(engine).of("laptop", "vera")
    engine.dispose()
    browser = house.browser("mallory")
    form = button(account_page(browser))
    for key in (account_key(place, connected), "", "saas", "vera"):
        assert press(browser, form, account=key).status_code == 303
    assert house.notes("vera") == "the notes of vera@saas"
    assert house.notes("mallory") == "the notes of mallory@saas"


def test_only_a_form_of_the_users_own_page_disconnects(house: House) -> None:
    house.connect("otto", "otto@saas")
    house.connect("martha", "martha@saas")
    browser, other = house.browser("otto"), house.browser("martha")
    form, theirs = button(account_page(browser)), button(account_page(other))
    assert press(browser, form, csrf=theirs.fields["csrf"]).status_code == 403
    assert press(browser, form, csrf="").status_code == 403
    fields = {**form.fields, **dict(form.buttons)}
    for headers in ({"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}):
        assert browser.http.post(form.action, data=fields, headers=headers).status_code == 403
    with httpx2.Client(transport=httpx2.HTTPTransport(verify=NO_TLS)) as stranger:
        away = stranger.post(form.action, data=fields)
    # No redirect: it would lead to another host, where browsers let no form of ours end.
    assert away.status_code == 403 and "signed out" in away.text
    assert browser.open(form.action).status_code == 405
    assert house.notes("otto") == "the notes of otto@saas"


def test_an_agent_that_used_its_humans_account_stops_at_once_in_every_worker(house: House) -> None:
    house.connect("alice", "alice@saas")
    for _ in range(12):  # both workers remember the account now
        assert alone(house)["result"]["content"][0]["text"] == "the notes of alice@saas"
        assert house.notes("alice") == "the notes of alice@saas"
    browser = house.browser("alice")
    assert press(browser, button(account_page(browser))).status_code == 200
    since, bearers = time.monotonic(), len(house.saas.seen)
    while time.monotonic() < since + BOUND_SECONDS:
        if alone(house).get("error", {}).get("code") == 46008:
            break
    for _ in range(12):
        assert alone(house)["error"]["code"] == 46008
        assert house.refused("alice")["data"]["reason"] == "connect_required"
    used = [
        sent for method, sent, _ in house.saas.seen[bearers:] if method == "tools/call" and sent
    ]
    assert len(used) <= 2, "what was under way at that moment, at most"


def test_an_answer_under_way_is_cut(house: House) -> None:
    house.connect("lena", "lena@saas")
    house.saas.endless = True
    opened = threading.Event()
    lines: list[str] = []

    def call() -> None:
        message = modern_call("saas__notes", {})
        headers = modern_headers(message, house.gw.token(sub="lena"))
        with house.gw.client() as client:
            with client.stream("POST", "/mcp", json=message, headers=headers) as answer:
                for line in answer.iter_lines():
                    lines.append(line)
                    opened.set()

    calling = threading.Thread(target=call)
    calling.start()
    wait_for(opened.is_set, "the answer to begin")
    browser = house.browser("lena")
    since = time.monotonic()
    assert press(browser, button(account_page(browser))).status_code == 200
    calling.join(10)
    assert not calling.is_alive() and time.monotonic() - since < 5
    assert any("46003" in line for line in lines), lines


def test_an_authorization_server_that_cannot_be_told_does_not_keep_the_account(
    house: House,
) -> None:
    house.connect("hugo", "hugo@saas")
    house.saas.metadata = lambda document: document.pop("revocation_endpoint")
    house.gw.reload()
    browser = house.browser("hugo")
    answer = press(browser, button(account_page(browser)))
    assert answer.status_code == 200 and "could not be told" in answer.text
    assert house.refused("hugo")["data"]["reason"] == "connect_required"
    failed = [r for r in house.records("connect/revoke") if r["decision"] == "deny"]
    assert "no revocation endpoint" in failed[-1]["detail"]["problem"]


@pytest.mark.parametrize("told", [True, False])
def test_a_refresh_under_way_does_not_touch_what_is_connected_afterwards(
    house: House, told: bool
) -> None:
    user = f"mona-{told}"
    house.connect(user, "old@saas")
    if not told:
        house.saas.metadata = lambda document: document.pop("revocation_endpoint")
        house.gw.reload()
    house.saas.expire()
    house.saas.slow, asked = 3.0, len(house.saas.forms)
    calling = threading.Thread(target=house.call, args=(user,))
    calling.start()
    wait_for(lambda: len(house.saas.forms) > asked, "the refresh to begin")
    ends, house.saas.slow = time.monotonic() + 3.0, 0.0
    browser = house.browser(user)
    assert press(browser, button(account_page(browser))).status_code == 200
    connected = browser.connect(f"{house.gw.url}/oauth/connect/saas", "new@saas")
    assert "is connected" in connected.text
    assert time.monotonic() < ends, "the refresh was to be under way still"
    calling.join(10)
    # Nothing shows when the gateway has dealt with the late answer, and a call sooner would hide what it did.
    time.sleep(max(0.0, ends + 0.5 - time.monotonic()))
    assert house.notes(user) == "the notes of new@saas"
