"""Clickjacking and cross-site requests against the pages of a signed-in user."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest

from tests.people import Page, Place, Visitor, place

FORMS = ("/account/stop", "/oauth/sign-out")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture
def alice() -> Iterator[Visitor]:
    with Visitor() as browser:
        yield browser


def post(
    here: Place, browser: Visitor, path: str, csrf: str | None, login: str, **headers: str
) -> httpx2.Response:
    """A form as some page makes alice's browser send it, with all her cookies."""
    form = {"login": login} if csrf is None else {"login": login, "csrf": csrf}
    return browser.client.post(here.url + path, data=form, headers=headers)


def token_in(page: Page, path: str) -> str:
    return page.form(path).fields["csrf"]


def test_no_other_site_posts_in_alices_name(here: Place, alice: Visitor) -> None:
    login = here.let_in("planner").jti
    here.let_in("planner", "bob")
    page = here.sign_in(alice)
    for path in FORMS:
        good = token_in(page, path)
        with Visitor() as mallory:
            his = token_in(here.sign_in(mallory, "bob"), path)
        other = token_in(page, next(each for each in FORMS if each != path))
        for csrf in (None, "", "x", good[:-1], good + "x", good.swapcase(), his, other):
            assert post(here, alice, path, csrf, login).status_code == 403, csrf
        for headers in (
            {"Origin": "https://evil.example"}, {"Origin": "null"},
            {"Origin": here.issuer.url}, {"Origin": here.url.upper()},
            {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
            {"Sec-Fetch-Site": "none"}, {"Origin": here.url, "Sec-Fetch-Site": "cross-site"},
        ):  # fmt: skip
            assert post(here, alice, path, good, login, **headers).status_code == 403, headers
    after = alice.open(f"{here.url}/account")
    assert after.status == 200 and login in after.html, "nothing was stopped, nobody signed out"
    assert post(here, alice, FORMS[0], token_in(page, FORMS[0]), login).status_code == 303
    assert login not in alice.open(f"{here.url}/account").html


def test_a_token_dies_with_its_session(here: Place, alice: Visitor) -> None:
    login = here.let_in("planner").jti
    csrf = token_in(here.sign_in(alice), FORMS[0])
    alice.open(here.answer_for_again(alice))
    assert post(here, alice, FORMS[0], csrf, login).status_code == 403


@pytest.mark.parametrize(
    "kind", ["application/json", "text/plain", "multipart/form-data; boundary=b"]
)
def test_only_forms_are_read(here: Place, alice: Visitor, kind: str) -> None:
    page = here.sign_in(alice)
    body = f"csrf={token_in(page, FORMS[0])}&login=all"
    for path in FORMS:
        answer = alice.client.post(here.url + path, content=body, headers={"Content-Type": kind})
        assert answer.status_code == 400


def test_a_link_changes_nothing(here: Place, alice: Visitor) -> None:
    page = here.sign_in(alice)
    for path in FORMS:
        answer = alice.client.get(f"{here.url}{path}?csrf={token_in(page, path)}&login=all")
        assert answer.status_code == 405
        answer = alice.client.post(f"{here.url}{path}?csrf={token_in(page, path)}&login=all")
        assert answer.status_code in (400, 403)
    assert alice.open(f"{here.url}/account").status == 200


def test_no_page_can_be_framed_fed_or_kept(here: Place, alice: Visitor) -> None:
    """Clickjacking: whatever a browser is answered, no other page may show it inside of itself."""
    page = here.sign_in(alice)
    answers = [
        alice.client.get(f"{here.url}/account"),
        alice.client.get(f"{here.url}/oauth/callback?state=x"),
        post(here, alice, FORMS[0], None, "x"),
        post(here, alice, FORMS[1], token_in(page, FORMS[1]), "x"),
    ]
    assert [answer.status_code for answer in answers] == [200, 400, 403, 200]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert "base-uri 'none'" in policy and "form-action 'self'" in policy
        assert "script" not in policy and "unsafe" not in policy
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "<script" not in answer.text and "javascript:" not in answer.text
    away = httpx2.get(f"{here.url}/account", trust_env=False)
    assert away.status_code == 303
    assert away.headers["cache-control"] == "no-store"
    assert away.headers["referrer-policy"] == "same-origin"


def test_no_other_site_reads_the_account(here: Place, alice: Visitor) -> None:
    here.sign_in(alice)
    answer = alice.client.get(f"{here.url}/account", headers={"Origin": "https://evil.example"})
    assert answer.status_code == 403 and not answer.content
    allowed = alice.client.get(f"{here.url}/account")
    assert not any(name.startswith("access-control-") for name in allowed.headers)
