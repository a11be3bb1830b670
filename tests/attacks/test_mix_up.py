"""Mix-up: an answer of one identity provider is brought to a sign-in at another (RFC 9207 section 1)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.people import Visitor
from tests.scripted_issuer import Scene, ScriptedIssuer, scene


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with scene(tmp_path_factory.mktemp("gateway")) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _forget(at: Scene) -> None:
    at.issuer.redeemed.clear()
    at.issuer.claims = {}


@pytest.fixture
def alice() -> Iterator[Visitor]:
    with Visitor() as browser:
        yield browser


def test_an_honest_answer_signs_in(at: Scene, alice: Visitor) -> None:
    assert "Signed in as" in at.sign_in(alice).words
    assert [form["code"] for form in at.issuer.redeemed] == ["c-1"]


@pytest.mark.parametrize("iss", ["https://evil.example", "", "same/"])
def test_a_code_of_another_issuer_is_redeemed_nowhere(at: Scene, alice: Visitor, iss: str) -> None:
    iss = iss.replace("same", at.issuer.url)
    page = at.sign_in(alice, iss=iss)
    assert page.status == 400 and "not of the identity provider" in page.words
    assert at.issuer.redeemed == [] and not at.is_signed_in(alice)


def test_an_error_of_another_issuer_is_not_believed_either(at: Scene, alice: Visitor) -> None:
    page = at.sign_in(alice, iss="https://evil.example", code="", error="access_denied")
    assert page.status == 400 and "not of the identity provider" in page.words


@pytest.mark.parametrize("claims", [{"iss": "https://evil.example"}, {"aud": "their-client"},
                                    {"azp": "their-client"}, {"nonce": "theirs"}])  # fmt: skip
def test_an_id_token_from_another_conversation_signs_nobody_in(
    at: Scene, alice: Visitor, claims: dict[str, str]
) -> None:
    at.issuer.claims = claims
    page = at.sign_in(alice)
    assert page.status == 400 and "does not prove who you are" in page.words
    assert not at.is_signed_in(alice)
    record = at.gateway.records()[-1]
    assert (record["method"], record["decision"]) == ("login/sign-in", "deny")
    assert record["reason"] == "invalid_token"


def test_a_flow_begun_at_the_issuer_of_before_ends_nowhere(tmp_path: Path, alice: Visitor) -> None:
    """Users sign in elsewhere since a reload: no code goes to another issuer than it came from."""
    with scene(tmp_path) as at, ScriptedIssuer().served() as other:
        at.begin(alice)
        before = at.answer(alice)
        config = at.gateway.config
        config["issuers"]["other"] = {"issuer": other.url, "audiences": ["x"]}
        config["login"] = {**config["login"], "issuer": "other"}
        at.gateway.reload()
        page = alice.open(before)
        assert page.status == 400 and "sign in elsewhere now" in page.words
        assert at.issuer.redeemed == [] and other.redeemed == []
