"""Threat: a link to connect an account, opened by another than the one it was made for.

Else an attacker's call would have the victim connect the victim's account for the attacker, or the
attacker's account for the victim (MCP authorization, URL mode elicitation).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.saas import House
from tests.saas import house as run_house


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with run_house(tmp_path_factory.mktemp("links")) as running:
        yield running


def test_a_link_opened_by_another_user_connects_nothing_and_is_spent(house: House) -> None:
    link = house.link("mallory")
    before = len(house.saas.forms)
    answer = house.browser("alice").open(link)
    assert answer.status_code == 403 and "another user" in answer.text
    assert house.browser("mallory").open(link).status_code == 400
    assert len(house.saas.forms) == before
    for user in ("alice", "mallory"):
        assert house.refused(user)["data"]["reason"] == "connect_required"
    denied = [r for r in house.records("connect/start") if r["decision"] == "deny"]
    assert denied[-1]["reason"] == "another_user"
    assert denied[-1]["subject"] == {"iss": "laptop", "sub": "alice"}


def test_a_form_with_the_link_of_another_user_connects_nothing(house: House) -> None:
    theirs = house.link("mallory")
    browser = house.browser("alice")
    page = browser.open(house.link("alice"))
    secret, other = (str(url).partition("link=")[2] for url in (page.url, theirs))
    text = page.text.replace(secret, other)
    assert other in text
    forged = type(page)(200, text=text, request=page.request)
    answer = browser.agree(forged)
    assert answer.status_code == 403
    assert house.browser("mallory").open(theirs).status_code == 400


def test_a_form_of_another_site_or_session_is_not_taken(house: House) -> None:
    url = f"{house.gw.url}/oauth/connect/saas"
    victim = house.browser("alice")
    page = victim.open(url)
    token = page.text.partition('name="csrf" value="')[2].partition('"')[0]
    assert token
    other = house.browser("bob")
    for browser, headers, data in (
        (victim, {"origin": "https://evil.example"}, {"csrf": token}),
        (victim, {"sec-fetch-site": "cross-site"}, {"csrf": token}),
        (victim, {}, {}),
        (victim, {}, {"csrf": token[:-2] + "AA"}),
        (other, {}, {"csrf": token}),
    ):
        answer = browser.http.post(url, data=data, headers=headers)
        assert answer.status_code in (400, 403), (headers, data)
    assert house.refused("alice")["data"]["reason"] == "connect_required"


def test_what_was_not_shown_is_not_asked_for(house: House) -> None:
    browser = house.browser("alice")
    page = browser.open(house.link("alice"))
    house.saas.prm = lambda document: document.update(scopes_supported=["notes.read", "admin"])
    answer = browser.agree(page)
    house.saas.reset()
    assert answer.status_code == 409 and "changed" in answer.text


def test_the_page_cannot_be_framed_or_scripted(house: House) -> None:
    page = house.browser("alice").open(f"{house.gw.url}/oauth/connect/saas")
    policy = page.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy and "default-src 'none'" in policy
    assert f"form-action 'self' {house.saas.url} https:;" in policy
    assert page.headers["x-frame-options"] == "DENY" and page.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("server", ["time", "..", "callback%2f", "saas/x"])
def test_a_server_that_takes_no_accounts_has_no_page(house: House, server: str) -> None:
    answer = house.browser("alice").open(f"{house.gw.url}/oauth/connect/{server}")
    assert answer.status_code in (400, 404)
