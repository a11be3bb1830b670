from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgw.core import claims as rule
from agentgw.core.claims import IssuerRules, map_audiences
from agentgw.core.grants import Users
from agentgw.core.principal import Caller, Hop, Inbound, Subject
from agentgw.errors import InvalidToken

NOW = 1_795_400_000
US = "https://gw.example.com"
UNION = f"{US}/mcp"


def rules(**changes: Any) -> IssuerRules:
    return IssuerRules(
        **{
            "alias": "acme",
            "issuer": "https://idp.example.com",
            "audiences": map_audiences([UNION, f"{UNION}/time", "api://gw"], US),
            "tolerated_audiences": frozenset({"account"}),
            **changes,
        }
    )


def caller(*resources: str) -> Caller:
    return Caller(
        subject=Subject("acme", "alice", "acme|alice"),
        chain=(Hop(f"{US}/a2a/planner", "planner", "client-auth"),),
        scopes=frozenset(),
        resources=frozenset(resources),
        exp=NOW,
        inbound=Inbound("https://idp.example.com", None, "sha-256:x"),
        presenter=f"{US}/a2a/planner",
    )


def test_returns_exp_of_a_token_that_is_alive() -> None:
    assert rule.check_times({"exp": NOW + 300, "iat": NOW, "nbf": NOW}, NOW) == NOW + 300
    assert rule.check_times({"exp": NOW + 5}, NOW) == NOW + 5
    assert rule.check_times({"exp": NOW + 300, "iat": NOW + 60, "nbf": NOW + 60}, NOW)


@pytest.mark.parametrize(
    ("times", "reason"),
    [
        ({}, "no exp"),
        ({"exp": None}, "whole number"),
        ({"exp": str(NOW + 60)}, "whole number"),
        ({"exp": NOW + 60.5}, "whole number"),
        ({"exp": True}, "whole number"),
        ({"exp": [NOW + 60]}, "whole number"),
        ({"exp": -1}, "whole number"),
        ({"exp": NOW + 60, "iat": "now"}, "whole number"),
        ({"exp": NOW + 60, "nbf": 1.5}, "whole number"),
        ({"exp": NOW - 121}, "expired"),
        ({"exp": NOW}, "expired"),
        ({"exp": NOW + 4}, "less than 5"),
        ({"exp": NOW + 300, "nbf": NOW + 61}, "not valid yet"),
        ({"exp": NOW + 300, "iat": NOW + 61}, "future"),
        ({"exp": NOW + 300, "iat": NOW - 86_400}, "lives longer"),
        ({"exp": 10**19}, "lives longer"),
        ({"exp": NOW + 86_400 + 61, "iat": NOW + 60}, "lives longer"),
    ],
)
def test_refuses_times_that_do_not_hold(times: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidToken, match=reason):
        rule.check_times(times, NOW)


@given(st.integers(0, 2**40), st.integers(0, 2**40), st.integers(0, 2**33))
def test_no_accepted_token_outlives_a_day_or_is_about_to_end(exp: int, iat: int, now: int) -> None:
    try:
        rule.check_times({"exp": exp, "iat": iat}, now)
    except InvalidToken:
        return
    assert now + 5 <= exp <= iat + 86_400
    assert iat <= now + 60


@pytest.mark.parametrize(
    ("claims", "typ", "changes"),
    [
        ({}, "at+jwt", {}),
        ({"scope": ""}, "jwt", {}),
        ({"scp": ["a"]}, "jwt", {}),
        ({"typ": "Bearer"}, "jwt", {}),
        ({"token_use": "access"}, "jwt", {}),
        ({"ver": "2.0"}, "jwt", {"marker": {"ver": "*"}}),
        ({"typ": "MyAccess"}, "jwt", {"marker": {"typ": "MyAccess"}}),
        ({"cid": "x", "scp": ["a"]}, None, {"marker": {"cid": "*", "scp": "*"}}),
        ({"token_use": "access_token"}, "jwt", {}),
        ({}, "at+jwt", {"require_typ": "at+jwt"}),
    ],
)
def test_takes_what_is_marked_as_an_access_token(
    claims: dict[str, Any], typ: str | None, changes: dict[str, Any]
) -> None:
    rule.check_kind(claims, typ, rules(**changes))


@pytest.mark.parametrize(
    ("claims", "typ", "changes"),
    [
        ({"scope": "a"}, None, {}),
        ({"scope": "a"}, "logout+jwt", {}),
        ({"scope": "a"}, "dpop+jwt", {}),
        ({"scope": "a"}, "jwt", {"require_typ": "at+jwt"}),
        ({}, "jwt", {}),
        ({"nonce": "n"}, "at+jwt", {}),
        ({"at_hash": "h"}, "at+jwt", {}),
        ({"events": {}}, "at+jwt", {}),
        ({"typ": "ID", "scope": "a"}, "jwt", {}),
        ({"typ": "Refresh"}, "jwt", {}),
        ({"typ": "Offline"}, "at+jwt", {}),
        ({"typ": "Logout"}, "jwt", {}),
        ({"typ": ["Bearer"]}, "jwt", {}),
        ({"token_use": "id", "scope": "a"}, "jwt", {}),
        ({"scope": "a"}, "jwt", {"marker": {"ver": "2.0"}}),
        ({"ver": "1.0"}, "at+jwt", {"marker": {"ver": "2.0"}}),
        ({"typ": "ID", "ver": "2"}, "jwt", {"marker": {"ver": "2"}}),
        ({"cid": "x"}, None, {"marker": {"cid": "*", "scp": "*"}}),
        ({"cid": "x"}, None, {"marker": {"cid": "*"}, "require_typ": "at+jwt"}),
        ({"cid": "x"}, "logout+jwt", {"marker": {"cid": "*"}}),
        ({"scope": "a", "token_use": "refresh_token"}, "jwt", {}),
    ],
)
def test_refuses_what_is_another_kind_of_token(
    claims: dict[str, Any], typ: str | None, changes: dict[str, Any]
) -> None:
    with pytest.raises(InvalidToken):
        rule.check_kind(claims, typ, rules(**changes))


@pytest.mark.parametrize(
    ("aud", "expected"),
    [
        (UNION, {UNION}),
        ([UNION, "account"], {UNION}),
        ("api://gw", {UNION}),
        (f"{UNION}/time", {f"{UNION}/time"}),
        ([f"{UNION}/time", UNION], {UNION, f"{UNION}/time"}),
    ],
)
def test_maps_audiences_to_our_resources(aud: Any, expected: set[str]) -> None:
    assert rule.resources_of({"aud": aud}, rules()) == expected


@pytest.mark.parametrize(
    "aud",
    [
        None, [], "", [""], 7, {"a": 1}, [UNION, 7], [[UNION]],
        "account", ["account"],
        [UNION, "https://evil.example"],
        f"{UNION}/", f"{UNION}/../x", f"{UNION}#f", f"{UNION}?a", UNION.upper(), f" {UNION}",
        "HTTPS://gw.example.com/mcp", "https://gw.example.com:443/mcp", f"{UNION} account",
        f"{UNION}/other",
    ],
)  # fmt: skip
def test_refuses_every_audience_that_is_not_listed(aud: Any) -> None:
    with pytest.raises(InvalidToken):
        rule.resources_of({"aud": aud}, rules())


def test_a_map_of_audiences_binds_values_to_resources() -> None:
    mapped = map_audiences({f"{UNION}/time": ["time-api", "both"], UNION: ["both"]}, US)
    assert mapped == {"time-api": {f"{UNION}/time"}, "both": {UNION, f"{UNION}/time"}}


def test_a_union_token_opens_every_path_and_a_server_token_only_its_own() -> None:
    assert rule.admits(caller(UNION), US, None)
    assert rule.admits(caller(UNION), US, "time")
    assert rule.admits(caller(f"{UNION}/time"), US, "time")
    assert not rule.admits(caller(f"{UNION}/time"), US, None)
    assert not rule.admits(caller(f"{UNION}/time"), US, "tim")
    assert not rule.admits(caller(), US, "time")


def test_only_our_own_urls_are_resources() -> None:
    assert rule.is_resource(UNION, US)
    assert rule.is_resource(f"{UNION}/time", US)
    for url in (US, f"{UNION}/", f"{UNION}/a/b", f"{UNION}x", f"{US}/a2a/coder", "/mcp"):
        assert not rule.is_resource(url, US)


def test_reads_scopes_of_both_dialects() -> None:
    assert rule.scopes_of({"scope": "a b  a"}) == {"a", "b"}
    assert rule.scopes_of({"scp": "a b"}) == {"a", "b"}
    assert rule.scopes_of({"scp": ["a", "b"]}) == {"a", "b"}
    assert rule.scopes_of({"scope": "a", "scp": ["admin"]}) == {"a"}
    assert rule.scopes_of({}) == frozenset()


@pytest.mark.parametrize("claims", [{"scope": ["a"]}, {"scp": [1]}, {"scope": 1}, {"scp": {}}])
def test_refuses_scopes_of_odd_types(claims: dict[str, Any]) -> None:
    with pytest.raises(InvalidToken):
        rule.scopes_of(claims)


def test_qualifies_groups_by_issuer_and_strips_nothing() -> None:
    found = rule.groups_of({"groups": ["support", "/eng/a"]}, rules(groups_claim="groups"))
    assert found == {"acme:group:support", "acme:group:/eng/a"}
    nested = {"realm_access": {"roles": ["ops"]}}
    assert rule.groups_of(nested, rules(groups_claim="realm_access.roles")) == {"acme:group:ops"}


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"groups": "support"},
        {"groups": ["support", 7]},
        {"groups": ["support", ""]},
        {"groups": {"support": True}},
        {"groups": ["support"], "hasgroups": True},
        {"groups": ["support"], "_claim_names": {"groups": "src1"}},
        {"groups": ["support"], "_claim_names": "groups"},
    ],
)
def test_absent_odd_or_overflowed_groups_grant_nothing(claims: dict[str, Any]) -> None:
    assert rule.groups_of(claims, rules(groups_claim="groups")) == frozenset()


def test_no_group_claim_configured_means_no_groups() -> None:
    assert rule.groups_of({"groups": ["support"]}, rules()) == frozenset()


def test_other_distributed_claims_do_not_take_the_groups_away() -> None:
    claims = {"groups": ["support"], "_claim_names": {"address": "src1"}}
    assert rule.groups_of(claims, rules(groups_claim="groups")) == {"acme:group:support"}


def test_names_users_by_alias_and_sub() -> None:
    assert rule.subject_of({"sub": "alice"}, rules(), US).name == "acme|alice"
    assert rule.subject_of({"sub": "a|b"}, rules(), US).name == "acme|a|b"
    assert rule.subject_of({"sub": "alice"}, rules(subject="plain"), US).name == "alice"


@pytest.mark.parametrize("sub", [None, "", 7, ["a"], "a\nb", "a\x00", "x" * 256, "a\u202eb"])
def test_refuses_a_sub_that_is_no_printable_name(sub: Any) -> None:
    with pytest.raises(InvalidToken):
        rule.subject_of({"sub": sub}, rules(), US)


@pytest.mark.parametrize(
    "sub", ["other|bob", "other:group:admins", US, f"{US}/a2a/coder", "client:acme|x"]
)
def test_a_plain_sub_cannot_be_spelled_like_a_name_of_others(sub: str) -> None:
    with pytest.raises(InvalidToken):
        rule.subject_of({"sub": sub}, rules(subject="plain"), US)


MAIL = {"user_claim": "email", "email_domains": frozenset({"example.com"})}


def test_a_verified_address_of_a_listed_domain_names_the_user() -> None:
    claims = {"sub": "42", "email": "Alice@Example.COM", "email_verified": True}
    found = rule.subject_of(claims, rules(**MAIL), US)
    assert found == Subject("acme", "42", "acme|42", "Alice@example.com")


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"email": "alice@example.com"},
        {"email": "alice@example.com", "email_verified": False},
        {"email": "alice@example.com", "email_verified": "true"},
        {"email": "alice@example.com", "email_verified": 1},
        {"email": "alice@evil.example", "email_verified": True},
        {"email": "alice@sub.example.com", "email_verified": True},
        {"email": "alice@evil.example@example.com", "email_verified": True},
        {"email": "@example.com", "email_verified": True},
        {"email": "example.com", "email_verified": True},
    ],
)
def test_refuses_addresses_nobody_vouches_for(claims: dict[str, Any]) -> None:
    with pytest.raises(InvalidToken):
        rule.subject_of({"sub": "42", **claims}, rules(**MAIL), US)


def test_an_e_mail_claim_without_listed_domains_names_nobody() -> None:
    claims = {"sub": "42", "email": "alice@example.com", "email_verified": True}
    with pytest.raises(InvalidToken):
        rule.subject_of(claims, rules(user_claim="email"), US)


def test_another_claim_may_name_the_user() -> None:
    claims = {"sub": "42", "preferred_username": "alice"}
    found = rule.subject_of(claims, rules(user_claim="preferred_username"), US)
    assert (found.name, found.known_as) == ("acme|42", "alice")


def test_a_user_known_by_a_claim_matches_grants_by_it_and_never_by_sub() -> None:
    users = Users(pairs=frozenset({("acme", "42"), ("acme", "alice")}))
    claims = {"sub": "7", "preferred_username": "alice"}
    assert users.include(
        rule.subject_of(claims, rules(user_claim="preferred_username"), US), frozenset()
    )
    usurper = {"sub": "42", "preferred_username": "mallory"}
    assert not users.include(
        rule.subject_of(usurper, rules(user_claim="preferred_username"), US), frozenset()
    )
    assert users.include(rule.subject_of(usurper, rules(), US), frozenset())
