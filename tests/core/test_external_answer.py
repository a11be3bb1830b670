"""What another authorization server may answer, and what not."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgw.core.claims import MAX_LIFE
from agentgw.core.external_answer import (
    ReadToken,
    TokenAnswer,
    check_credential,
    check_grant,
    read_answer,
)
from agentgw.core.external_exchange import Credential, Expected, ExternalRules, expected
from agentgw.errors import AnswerRefused, UpstreamFailed
from tests.core.test_external_exchange import (
    CODER,
    IDP,
    NOW,
    PLANNER,
    RULES,
    THEIRS,
    TWO_SERVERS,
    US,
    caller,
)

OURS = dataclasses.replace(RULES, subject="gateway")
ANSWER = TokenAnswer("token", None, 120)
TYPES = "urn:ietf:params:oauth:token-type:"


def act(*subs: str, iss: str | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for sub in reversed(subs):
        found = {"sub": sub, **({"iss": iss} if iss else {}), **({"act": found} if found else {})}
    return found


def claims(**changes: Any) -> dict[str, Any]:
    made = {
        "iss": IDP, "sub": "alice", "aud": "tickets", "scope": "tickets.use",
        "iat": NOW, "exp": NOW + 120, "jti": "as-1", **changes,
    }  # fmt: skip
    return {name: value for name, value in made.items() if value is not None}


def judge(
    rules: ExternalRules = RULES, wanted: Expected | None = None, **changes: Any
) -> Credential:
    read = ReadToken(claims(**changes), "at+jwt")
    wanted = wanted or expected(rules, caller(), "tickets.use")
    return check_credential(rules, wanted, ANSWER, read, NOW)


def differs(rules: ExternalRules = RULES, wanted: Expected | None = None, **changes: Any) -> str:
    with pytest.raises(AnswerRefused) as caught:
        judge(rules, wanted, **changes)
    return str(caught.value.difference["member"])


def test_what_was_asked_for_is_taken_with_what_a_record_keeps_of_it() -> None:
    credential = judge()
    assert credential.token == b"token" and credential.until == NOW + 120
    assert credential.facts == {
        "iss": IDP, "jti_hash": credential.facts["jti_hash"], "aud": "tickets",
        "scope": "tickets.use", "exp": NOW + 120, "authorization_server": "acme",
    }  # fmt: skip
    assert "token" not in repr(credential)


TWO = expected(OURS, caller(CODER, PLANNER), "tickets.use")


@pytest.mark.parametrize(
    "subs",
    [
        (PLANNER,), (CODER,), (PLANNER, CODER), (CODER, PLANNER, PLANNER), (CODER, "planner-2"),
        ("someone", CODER, PLANNER), (CODER, PLANNER, "someone"), ("someone",), ("someone", PLANNER),
        ("gateway", PLANNER), ("gateway", "gateway", CODER, PLANNER), (CODER, "gateway", PLANNER),
    ],
)  # fmt: skip
def test_a_hop_dropped_swapped_added_or_moved_is_refused(subs: tuple[str, ...]) -> None:
    assert differs(OURS, TWO, act=act(*subs)) == "act"


@pytest.mark.parametrize(
    "subs",
    [(CODER, PLANNER), ("gateway", CODER, PLANNER), (US, CODER, PLANNER), (CODER, "planner")],
)
def test_the_chain_that_was_shown_is_taken_with_us_before_it_or_not(subs: tuple[str, ...]) -> None:
    assert judge(OURS, TWO, act=act(*subs)).assurance == "grant"


def test_a_chain_that_was_shown_may_be_missing_only_where_the_operator_says_so() -> None:
    assert differs(OURS, TWO) == "act"
    lenient = dataclasses.replace(OURS, act_optional=True)
    assert judge(lenient, TWO).assurance == "audit-only"
    assert differs(lenient, TWO, act=act(CODER)) == "act"


def test_an_act_in_the_callers_own_token_must_come_back() -> None:
    wanted = expected(RULES, caller(claims={"act": act("planner")}), "tickets.use")
    assert differs(wanted=wanted) == "act"
    assert differs(wanted=wanted, act=act("gateway")) == "act"
    assert judge(wanted=wanted, act=act("gateway", "planner")).assurance == "grant"


def test_agents_of_an_issuer_that_nobody_asked_are_refused() -> None:
    assert differs(act=act("planner", iss="https://evil.example")) == "act"
    assert judge(act=act("planner", iss=IDP)).assurance == "grant"


def test_an_act_without_end_is_refused() -> None:
    assert differs(act=act(*["planner"] * 40)) == "act"


@pytest.mark.parametrize(
    "subject", ["bob", "Alice", "alice ", "acme|alice", "", 7, None, ["alice"], {"sub": "alice"}]
)
def test_any_other_user_is_refused(subject: object) -> None:
    assert differs(sub=subject) == "sub"


def test_a_user_nobody_can_compare_is_refused() -> None:
    stranger = dataclasses.replace(RULES, users=None)
    assert differs(stranger) == "sub"


def test_users_may_be_told_apart_by_another_claim() -> None:
    rules = dataclasses.replace(RULES, subject_claim="oid")
    wanted = expected(rules, caller(claims={"oid": "o-1"}), "tickets.use")
    assert judge(rules, wanted, oid="o-1", sub="pairwise").token
    assert differs(rules, wanted, oid="o-2") == "oid"
    assert differs(rules, wanted) == "oid"


@pytest.mark.parametrize("aud", ["time", ["tickets", "time"], [], None, ["tickets", "tickets"], 7])
def test_any_other_audience_is_refused(aud: object) -> None:
    assert differs(aud=aud) == "aud"


def test_scopes_may_shrink_and_those_the_operator_names_may_come_along() -> None:
    assert judge(scope=None).facts["scope"] == "tickets.use"
    assert judge(scope="").facts["scope"] is None
    assert differs(scope="tickets.use profile") == "scope"
    lenient = dataclasses.replace(RULES, allowed_scopes=frozenset({"profile"}))
    assert judge(lenient, scope="tickets.use profile").facts["scope"] == "profile tickets.use"


def test_a_token_may_outlive_the_callers_by_what_the_operator_says_and_is_not_used_so_long() -> (
    None
):
    assert differs(exp=NOW + 330) == "exp"
    lenient = dataclasses.replace(RULES, outlive=60)
    wanted = expected(lenient, caller(), "tickets.use")
    assert judge(lenient, wanted, exp=NOW + 330).facts["exp"] == NOW + 120
    assert differs(lenient, wanted, exp=NOW + 400) == "exp"


@pytest.mark.parametrize("exp", [None, NOW, NOW - 1, "later", 1.5, True, NOW + 2 * MAX_LIFE])
def test_an_end_that_is_none_is_refused(exp: object) -> None:
    assert differs(exp=exp) == "exp"


def opaque(rules: ExternalRules = RULES, **answer: Any) -> Credential:
    read = TokenAnswer(**{"token": "opaque", "scopes": None, "expires_in": 120, **answer})
    return check_credential(rules, expected(rules, caller(), "tickets.use"), read, None, NOW)


def test_of_an_opaque_token_only_scope_and_life_are_judged_and_the_record_says_so() -> None:
    assert opaque().assurance == "audit-only"
    assert opaque(OURS).assurance == "grant"
    for wrong in ({"scopes": frozenset({"more"})}, {"expires_in": 900}, {"expires_in": None}):
        with pytest.raises(AnswerRefused):
            opaque(**wrong)


GRANT = dataclasses.replace(TWO_SERVERS, grant="id-jag")


def granted(
    rules: ExternalRules = GRANT, typ: str = "oauth-id-jag+jwt", **changes: Any
) -> Expected:
    said = {"aud": THEIRS, "client_id": "gateway", "resource": rules.resource, **changes}
    wanted = expected(rules, caller(), "tickets.use")
    return check_grant(rules, wanted, ANSWER, ReadToken(claims(**said), typ), NOW)


def test_the_grant_of_a_first_server_says_whom_the_second_must_name() -> None:
    assert granted().subjects == frozenset({"alice"})
    assert granted(aud_sub="their-alice").subjects == frozenset({"their-alice"})
    chained = dataclasses.replace(TWO_SERVERS, grant="identity-chaining")
    assert granted(chained, typ="jwt").subjects == frozenset({"alice"})


@pytest.mark.parametrize(
    ("changes", "member"),
    [
        ({"typ": "at+jwt"}, "typ"),
        ({"aud": IDP}, "aud"),
        ({"aud": [THEIRS, IDP]}, "aud"),
        ({"sub": "bob"}, "sub"),
        ({"client_id": "another"}, "client_id"),
        ({"resource": "https://time.example/mcp"}, "resource"),
        ({"scope": "tickets.use more"}, "scope"),
        ({"exp": NOW + 9000}, "exp"),
        ({"act": {"sub": "someone"}}, "act"),
    ],
)
def test_a_grant_for_more_or_others_is_not_redeemed(changes: dict[str, Any], member: str) -> None:
    with pytest.raises(AnswerRefused) as caught:
        granted(**changes)
    assert caught.value.difference["member"] == member


def test_an_opaque_grant_is_not_redeemed() -> None:
    wanted = expected(GRANT, caller(), None)
    with pytest.raises(AnswerRefused):
        check_grant(GRANT, wanted, ANSWER, None, NOW)


def test_errors_of_a_server_are_named_by_their_code_only() -> None:
    body = {"error": "invalid_grant", "error_description": "token eyJ.secret"}
    with pytest.raises(UpstreamFailed, match=r"refused: invalid_grant$"):
        read_answer(400, body, RULES, is_grant=False)
    with pytest.raises(UpstreamFailed, match=r"refused: with status 400$"):
        read_answer(400, {"error": "<b>"}, RULES, is_grant=False)


def test_a_grant_comes_as_no_bearer_token_and_of_its_own_type() -> None:
    body = {"access_token": "G", "token_type": "N_A", "issued_token_type": f"{TYPES}id-jag"}
    assert read_answer(200, body, GRANT, is_grant=True).token == "G"
    with pytest.raises(AnswerRefused):
        read_answer(200, body, RULES, is_grant=False)
    with pytest.raises(AnswerRefused):
        body["issued_token_type"] = f"{TYPES}access_token"
        read_answer(200, body, GRANT, is_grant=True)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
MEMBERS = ("access_token", "token_type", "issued_token_type", "expires_in", "scope", "error")


@given(st.dictionaries(st.sampled_from(MEMBERS), JSON) | JSON, st.booleans())
def test_whatever_comes_is_an_answer_or_a_refusal(document: Any, is_grant: bool) -> None:
    try:
        answer = read_answer(200, document, GRANT, is_grant=is_grant)
    except UpstreamFailed:
        return
    assert answer.token == document["access_token"]


CLAIMS = ("sub", "aud", "scope", "scp", "exp", "iat", "act", "cnf", "jti", "typ", "client_id")


@given(st.dictionaries(st.sampled_from(CLAIMS), JSON))
def test_whatever_a_token_says_authority_never_grows(odd: dict[str, Any]) -> None:
    said = {**claims(), **odd}
    wanted = expected(OURS, caller(CODER, PLANNER), "tickets.use")
    try:
        credential = check_credential(OURS, wanted, ANSWER, ReadToken(said, "jwt"), NOW)
    except AnswerRefused:
        return
    assert said["sub"] in ("alice", "acme|alice") and said["aud"] in ("tickets", ["tickets"])
    assert credential.until <= wanted.latest and "act" in said
