"""A login begun by one person and finished by another: it is the finisher's, asked and named, or nobody's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.login import AUTHORIZE, App, allow, attacked_place, signed_in
from tests.people import Place, Visitor, query_of
from tests.sts.sts_under_test import claims_of


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder: Path = tmp_path_factory.mktemp("login")
    with attacked_place(folder) as running:
        yield running


def test_a_link_opened_by_another_asks_that_other_by_name(here: Place) -> None:
    app = App(here)
    with Visitor() as mallory, Visitor() as alice:
        mallory.open(app.url())
        page = app.consent_page(alice)
        assert "Alice" in page.words and "Bob" not in page.words
        token = app.redeem(query_of(allow(alice, page))["code"]).json()["access_token"]
    assert claims_of(token)["sub"] == "laptop|alice"


def test_the_way_back_from_signing_in_is_bound_to_the_browser(here: Place) -> None:
    app = App(here)
    with Visitor() as mallory, Visitor() as alice:
        page = mallory.open(app.url())
        password = here.issuer.passwords["bob"]
        form = page.form("/authorize")
        mallory.submit(page, form, f"{here.url}/oauth/callback", user="bob", password=password)
        held_back = mallory.passed[-1]
        finished = alice.open(held_back)
        assert finished.status == 400
        assert alice.open(f"{here.url}/account").url.startswith(here.issuer.url)


def test_a_pushed_request_of_one_user_asks_the_user_who_opens_it(here: Place) -> None:
    app = App(here)
    uri = app.post("/oauth/par", {**app.query()}).json()["request_uri"]
    url = f"{here.url}{AUTHORIZE}?client_id=desktop&request_uri={uri}"
    with Visitor() as alice, Visitor() as bob:
        first = signed_in(here, alice, alice.open(url), "alice")
        second = signed_in(here, bob, bob.open(url), "bob")
        assert "Alice" in first.words and "Bob" in second.words
        code = query_of(allow(bob, second))["code"]
        fields = {**first.form(AUTHORIZE).fields, "answer": "allow"}
        late = alice.client.post(
            f"{here.url}{AUTHORIZE}", data=fields, headers={"Origin": here.url}
        )
        assert late.status_code == 400
    assert claims_of(app.redeem(code).json()["access_token"])["sub"] == "laptop|bob"


def test_a_change_of_user_in_one_browser_makes_open_pages_worthless(here: Place) -> None:
    app = App(here)
    with Visitor() as shared:
        page = app.consent_page(shared, "alice")
        account = shared.open(f"{here.url}/account")
        shared.submit(account, account.form("/oauth/sign-out"))
        App(here).consent_page(shared, "bob")
        fields = {**page.form(AUTHORIZE).fields, "answer": "allow"}
        late = shared.client.post(
            f"{here.url}{AUTHORIZE}", data=fields, headers={"Origin": here.url}
        )
        assert late.status_code == 403
