"""Asking the provider again: what is believed of its answers, and what counts as its last word."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from agentgw.core import recheck as rule
from agentgw.core.principal import Subject
from agentgw.core.recheck import Known, Renewed, SignInOver
from agentgw.core.sign_in import Person
from agentgw.errors import InvalidToken, UpstreamFailed
from tests.core.test_login_grants import LOGIN
from tests.core.test_sign_in import CLAIMS, NOW, RULES

ALICE = Person(
    Subject("acme", "alice", "acme|alice"), frozenset({"acme:group:support"}), "Alice", "mfa", NOW
)
KNOWN = Known("rt-1", "agentgw", "n" * 22, NOW - 3600, ALICE)


def judge(**changes: Any) -> Person:
    claims = {**CLAIMS, "nonce": None, **changes}
    said = {name: value for name, value in claims.items() if value is not None}
    return rule.judge_again(said, "jwt", "ES256", RULES, KNOWN, NOW)


def test_what_is_kept_comes_back_as_it_was() -> None:
    assert rule.read_known(json.loads(json.dumps(KNOWN.content()))) == KNOWN
    assert "rt-1" not in repr(KNOWN)


def test_todays_groups_replace_those_of_the_sign_in_and_nothing_else() -> None:
    person = judge(groups=["billing"], name="Alice B.", acr="pwd", auth_time=NOW)
    assert person == replace(ALICE, groups=frozenset({"acme:group:billing"}))
    assert judge().groups == frozenset(), "a claim that is absent grants nothing"


def test_a_login_is_laid_over_with_who_its_user_is_now() -> None:
    now = KNOWN.lay_over(LOGIN)
    assert (now.subject, now.groups) == (ALICE.subject, ALICE.groups)
    assert replace(now, subject=LOGIN.subject, groups=LOGIN.groups) == LOGIN


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"sub": "mallory"}, "another user"),
        ({"sub": None}, "another user"),
        ({"iss": "https://evil.example"}, "another issuer"),
        ({"aud": "other"}, "another client"),
        ({"aud": ["agentgw", "other"]}, "another client"),
        ({"azp": "other"}, "another client"),
        ({"nonce": "another"}, "nonce"),
        ({"nonce": 7}, "nonce"),
        ({"iat": NOW - 3600}, "not issued for this"),
        ({"exp": NOW - 100}, "expired"),
        ({"auth_time": "now"}, "auth_time"),
    ],
)
def test_a_refreshed_id_token_is_believed_like_the_first_one(
    changes: dict[str, Any], why: str
) -> None:
    with pytest.raises(InvalidToken, match=why):
        judge(**changes)


def test_the_nonce_of_the_sign_in_may_be_said_again() -> None:
    assert judge(nonce=KNOWN.nonce).subject == ALICE.subject


def test_userinfo_is_believed_about_the_same_user_only() -> None:
    said = {"sub": "alice", "groups": ["billing"]}
    assert rule.judge_userinfo(said, RULES, KNOWN).groups == {"acme:group:billing"}
    odds: list[object] = [None, [], "alice", {}, {"sub": "bob"}, {"sub": ["alice"]}]
    for odd in odds:
        with pytest.raises(InvalidToken):
            rule.judge_userinfo(odd, RULES, KNOWN)


def test_an_answer_holds_the_next_token_or_the_same_one_goes_on() -> None:
    both = {"access_token": "at", "id_token": "it", "refresh_token": "rt-2"}
    assert rule.read_renewed(200, both, KNOWN) == Renewed("rt-2", "it", "at")
    assert rule.read_renewed(200, {"access_token": "at"}, KNOWN) == Renewed("rt-1", None, "at")
    assert rule.read_renewed(200, {"refresh_token": 7}, KNOWN) == Renewed("rt-1", None, None)


def test_only_invalid_grant_says_that_the_sign_in_is_over() -> None:
    with pytest.raises(SignInOver):
        rule.read_renewed(400, {"error": "invalid_grant"}, KNOWN)
    for status, document in (
        (401, {"error": "invalid_client"}),
        (400, {"error": "unauthorized_client"}),
        (400, {"error": ["invalid_grant"]}),
        (403, None),
        (400, "invalid_grant"),
    ):
        with pytest.raises(UpstreamFailed) as failed:
            rule.read_renewed(status, document, KNOWN)
        assert not isinstance(failed.value, SignInOver)


def test_logins_stand_on_the_sign_in_that_is_their_parent() -> None:
    on = replace(LOGIN, parent=rule.sign_in_key("sid-1"))
    assert rule.sign_in_of(on) == "sign-in:sid-1"
    assert rule.sign_in_of(LOGIN) is None
    assert rule.sign_in_of(replace(LOGIN, parent="other")) is None
