"""One browser begins a sign-in, another finishes it: login CSRF, stolen answers, and answers used twice."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlencode

import pytest

from tests.people import Page, Place, Visitor, place, query_of


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture
def alice() -> Iterator[Visitor]:
    with Visitor() as browser:
        yield browser


@pytest.fixture
def mallory() -> Iterator[Visitor]:
    with Visitor() as browser:
        yield browser


def assert_not_signed_in(here: Place, browser: Visitor, page: Page) -> None:
    assert page.status == 400 and "not signed in" in page.words
    assert not any(name.endswith(here.url.rpartition(":")[2]) for name in browser.cookies())
    away = browser.open(f"{here.url}/account")
    assert away.url.startswith(here.issuer.url)


def test_alices_browser_does_not_become_mallorys(
    here: Place, alice: Visitor, mallory: Visitor
) -> None:
    """Mallory sends alice the end of his own sign-in: what she did next would be done as him."""
    answer = here.answer_for(mallory, "bob")
    assert_not_signed_in(here, alice, alice.open(answer))
    assert "Bob" in mallory.open(answer).words, "it was good in the browser that began it"


def test_a_stolen_answer_is_of_no_use_in_another_browser(
    here: Place, alice: Visitor, mallory: Visitor
) -> None:
    answer = here.answer_for(alice)
    here.answer_for(mallory, "bob")  # so that his browser has a flow of its own
    page = mallory.open(answer)
    assert page.status == 400
    assert "Alice" in alice.open(answer).words


def test_codes_of_two_browsers_do_not_change_places(
    here: Place, alice: Visitor, mallory: Visitor
) -> None:
    """Code injection: mallory's browser brings its own state and alice's code."""
    hers, his = query_of(here.answer_for(alice)), query_of(here.answer_for(mallory, "bob"))
    swapped = {**his, "code": hers["code"]}
    page = mallory.open(f"{here.callback}?{urlencode(swapped)}")
    assert page.status == 400 and "did not take the code" in page.words
    assert_not_signed_in(here, mallory, page)


def test_an_answer_works_once(here: Place, alice: Visitor) -> None:
    answer = here.answer_for(alice)
    cookies = alice.cookies()
    assert "Alice" in alice.open(answer).words
    with Visitor() as thief:
        thief.keep(cookies)
        page = thief.open(answer)
        assert page.status == 400 and "used before" in page.words
    page = alice.open(answer)
    assert page.status == 400 and "not begun in this browser" in page.words


def test_an_answer_that_failed_is_used_up_too(here: Place, alice: Visitor) -> None:
    honest = query_of(here.answer_for(alice))
    cookies = alice.cookies()
    first = alice.open(f"{here.callback}?{urlencode({**honest, 'code': 'guessed'})}")
    assert first.status == 400
    alice.keep(cookies)
    page = alice.open(f"{here.callback}?{urlencode(honest)}")
    assert page.status == 400 and "used before" in page.words


def test_no_state_is_no_state(here: Place, alice: Visitor) -> None:
    honest = query_of(here.answer_for(alice))
    for state in ("", "x", honest["state"][:-1], honest["state"] + "x", honest["state"].swapcase()):
        page = alice.open(f"{here.callback}?{urlencode({**honest, 'state': state})}")
        assert page.status == 400 and "not begun in this browser" in page.words
    without = {name: value for name, value in honest.items() if name != "state"}
    assert alice.open(f"{here.callback}?{urlencode(without)}").status == 400


@pytest.mark.parametrize("then", ["https://evil.example/", "//evil.example/", "/\\evil.example"])
def test_nobody_outside_chooses_where_it_goes_on(here: Place, alice: Visitor, then: str) -> None:
    """Neither a parameter of the page nor one of the answer moves the way back."""
    more = urlencode({"then": then, "next": then, "redirect_uri": then, "return_to": then})
    alice.open(f"{here.url}/account?{more}")
    answer = here.answer_for(alice)
    page = alice.open(f"{answer}&{more}")
    assert page.url == f"{here.url}/account"
