"""Consent that the user never gave: forged, framed, replayed or altered forms of the consent page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.login import AUTHORIZE, App, allow, attacked_place, submit
from tests.people import Page, Place, Visitor, query_of
from tests.sts.sts_under_test import claims_of


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder: Path = tmp_path_factory.mktemp("login")
    with attacked_place(folder) as running:
        yield running


def test_a_form_without_the_token_of_its_page_is_refused(here: Place) -> None:
    with Visitor() as alice:
        page = App(here).consent_page(alice)
        fields = {**page.form(AUTHORIZE).fields, "answer": "allow"}
        for changed in (
            {"csrf": ""},
            {"csrf": fields["csrf"][:-2] + "AA"},
            {"csrf": fields["request"]},
            {"request": ""},
            {"request": fields["csrf"]},
            {"request": fields["request"][:-2] + "AA"},
        ):
            assert submit(alice, page, {**fields, **changed}).status_code == 403
        assert submit(alice, page, fields).status_code == 303


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_form_posted_from_elsewhere_is_refused(here: Place, headers: dict[str, str]) -> None:
    with Visitor() as alice:
        page = App(here).consent_page(alice)
        fields = {**page.form(AUTHORIZE).fields, "answer": "allow"}
        answer = alice.client.post(page.form(AUTHORIZE).action, data=fields, headers=headers)
    assert answer.status_code == 403


def test_the_page_of_one_user_is_worth_nothing_in_the_browser_of_another(here: Place) -> None:
    with Visitor() as alice, Visitor() as bob:
        page = App(here).consent_page(alice)
        own = App(here).consent_page(bob, "bob")
        fields = {**page.form(AUTHORIZE).fields, "answer": "allow"}
        assert submit(bob, page, fields).status_code == 403
        mixed = {**fields, "csrf": own.form(AUTHORIZE).fields["csrf"]}
        assert submit(bob, page, mixed).status_code == 403
        with Visitor() as nobody:
            assert submit(nobody, page, fields).status_code == 403


def test_a_page_outlives_no_session(here: Place) -> None:
    with Visitor() as alice:
        page = App(here).consent_page(alice)
        fields = {**page.form(AUTHORIZE).fields, "answer": "allow"}
        account = alice.open(f"{here.url}/account")
        alice.submit(account, account.form("/oauth/sign-out"))
        assert submit(alice, page, fields).status_code == 403
        App(here).consent_page(alice)
        assert submit(alice, page, fields).status_code == 403


def test_a_page_is_answered_once(here: Place) -> None:
    with Visitor() as alice:
        page = App(here).consent_page(alice)
        fields = {**page.form(AUTHORIZE).fields, "answer": "allow"}
        assert submit(alice, page, fields).status_code == 303
        assert submit(alice, page, fields).status_code == 400
        assert submit(alice, page, {**fields, "answer": "deny"}).status_code == 400


@pytest.mark.parametrize("answer", ["", "Allow", "yes", "deny"])
def test_only_the_word_allow_allows(here: Place, answer: str) -> None:
    with Visitor() as alice:
        page = App(here).consent_page(alice)
        sent = submit(alice, page, {**page.form(AUTHORIZE).fields, "answer": answer})
        assert query_of(sent.headers["location"])["error"] == "access_denied"


def test_a_form_with_more_than_was_offered_allows_no_more(here: Place) -> None:
    app = App(here)
    with Visitor() as alice:
        page = app.consent_page(alice)
        more: dict[str, Any] = {
            "tool:tickets/never_listed": "on",
            "tool:other/echo": "on",
            "tool:*/*": "on",
            "server:other": "on",
            "agent:planner": "on",
        }
        code = query_of(allow(alice, page, **more))["code"]
    token = app.redeem(code).json()["access_token"]
    jti = claims_of(token)["jti"]
    engine = here.engine()
    with engine.connect() as connection:
        entry = connection.exec_driver_sql(
            "SELECT entry FROM ledger WHERE jti = ?", (jti,)
        ).scalar()
    engine.dispose()
    assert "never_listed" not in str(entry) and "other" not in str(entry)
    assert "planner" not in str(entry) and "*" not in str(entry)


@pytest.mark.parametrize("life", ["", "0", "-1", "99999999999", "3600.0", "1"])
def test_a_life_that_was_not_offered_allows_nothing(here: Place, life: str) -> None:
    with Visitor() as alice:
        page = App(here).consent_page(alice)
        fields = {**page.form(AUTHORIZE).fields, "answer": "allow", "life": life}
        assert submit(alice, page, fields).status_code == 400


def test_the_page_cannot_be_framed_fed_or_followed(here: Place) -> None:
    with Visitor() as alice:
        page: Page = App(here).consent_page(alice)
    policy = page.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy and "default-src 'none'" in policy
    assert "form-action 'self' http://127.0.0.1:45123 https:;" in policy
    assert page.headers["x-frame-options"] == "DENY"
    assert page.headers["cache-control"] == "no-store"
    assert "<script" not in page.html
