"""A session that somebody knew before the sign-in, or took along, is never the one that counts after it."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import httpx2
import pytest

from tests.people import Place, Visitor, place


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory.mktemp("gateway")) as running:
        yield running


def opens(here: Place, cookies: dict[str, str]) -> bool:
    with httpx2.Client(cookies=cookies, trust_env=False) as client:
        return client.get(f"{here.url}/account").status_code == 200


def session_name(here: Place) -> str:
    return f"agentgw-{here.url.rpartition(':')[2]}"


def test_a_session_planted_before_the_sign_in_opens_nothing_after_it(here: Place) -> None:
    with Visitor() as mallory, Visitor() as alice:
        here.sign_in(mallory, "bob")
        planted = mallory.cookies()
        alice.keep(planted)
        # alice meets bob's account, and signs in as herself on the way back from signing out.
        answer = here.answer_for_again(alice)
        page = alice.open(answer)
        assert "Signed in as Alice" in page.words
        assert alice.cookies()[session_name(here)] != planted[session_name(here)]
        assert not opens(here, planted), "the planted session ended, for whoever kept it too"


def test_each_sign_in_makes_a_session_that_never_was(here: Place) -> None:
    seen = set()
    with Visitor() as alice:
        for _ in range(3):
            before = alice.cookies()
            page = alice.open(here.answer_for_again(alice))
            assert page.status == 200
            seen.add(alice.cookies()[session_name(here)])
            assert not before or not opens(here, before)
    assert len(seen) == 3


@pytest.mark.parametrize(
    "value", ["", "x", "a" * 64, "A" * 3000, "é", base64.urlsafe_b64encode(bytes(60)).decode()]
)
def test_a_cookie_that_the_gateway_did_not_make_is_nobody(here: Place, value: str) -> None:
    headers = [(b"Cookie", f"{session_name(here)}={value}".encode())]
    answer = httpx2.get(f"{here.url}/account", headers=headers, trust_env=False)
    assert answer.status_code == 303 and answer.headers["location"].startswith(here.issuer.url)


def test_a_changed_cookie_is_nobody(here: Place) -> None:
    with Visitor() as alice:
        here.sign_in(alice)
        name, cookie = session_name(here), alice.cookies()[session_name(here)]
        assert opens(here, {name: cookie})
        for at in range(0, len(cookie), 7):
            other = "B" if cookie[at] == "A" else "A"
            assert not opens(here, {name: cookie[:at] + other + cookie[at + 1 :]})
        assert not opens(here, {name: cookie + "="}) and not opens(here, {name: cookie[:-1]})


def test_a_cookie_that_stands_twice_is_nobodys(here: Place) -> None:
    """Whoever can plant a second one beside alice's does not choose which of the two counts."""
    with Visitor() as alice, Visitor() as mallory:
        here.sign_in(alice)
        here.sign_in(mallory, "bob")
        name = session_name(here)
        both = f"{name}={mallory.cookies()[name]}; {name}={alice.cookies()[name]}"
        answer = httpx2.get(f"{here.url}/account", headers={"Cookie": both}, trust_env=False)
        assert answer.status_code == 303


def test_the_cookie_of_one_purpose_is_none_of_another(here: Place) -> None:
    with Visitor() as alice:
        alice.open(f"{here.url}/account")
        (flows,) = alice.cookies().values()
        assert not opens(here, {session_name(here): flows})
