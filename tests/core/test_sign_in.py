"""The relying party's rules: what it asks for, and what it believes of the answers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgw.core import sign_in as rule
from agentgw.core.canonical import b64url
from agentgw.core.claims import IssuerRules
from agentgw.core.principal import Subject
from agentgw.core.sign_in import Flow, LoginRules, Person, SignInRefused
from agentgw.errors import InvalidToken, UpstreamFailed

NOW = 1_795_400_000
US = "https://gw.example.com"
IDP = "https://idp.example.com"
RULES = LoginRules(
    IssuerRules("acme", IDP, {}, groups_claim="groups", algorithms=frozenset({"ES256"})),
    "agentgw",
    "openid groups",
    US,
    confidential=True,
)
FLOW = Flow(IDP, "s" * 43, "n" * 22, "v" * 43, "/account", NOW + 500)
METADATA = {
    "issuer": IDP,
    "authorization_endpoint": f"{IDP}/authorize",
    "code_challenge_methods_supported": ["plain", "S256"],
}
CLAIMS: dict[str, Any] = {
    "iss": IDP,
    "aud": "agentgw",
    "sub": "alice",
    "nonce": FLOW.nonce,
    "iat": NOW,
    "exp": NOW + 300,
}


def judge(typ: str | None = "jwt", alg: str = "ES256", **changes: Any) -> Person:
    claims = {name: value for name, value in {**CLAIMS, **changes}.items() if value is not None}
    return rule.judge_id_token(claims, typ, alg, RULES, FLOW, NOW)


def test_asks_for_a_code_bound_to_this_browser_and_this_client() -> None:
    url = urlsplit(rule.authorization_url(RULES, METADATA, FLOW))
    challenge = b64url(hashlib.sha256(FLOW.verifier.encode()).digest())
    assert f"{url.scheme}://{url.netloc}{url.path}" == f"{IDP}/authorize"
    assert dict(parse_qsl(url.query, strict_parsing=True)) == {
        "response_type": "code",
        "client_id": "agentgw",
        "redirect_uri": f"{US}/oauth/callback",
        "scope": "openid groups",
        "state": FLOW.state,
        "nonce": FLOW.nonce,
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    assert FLOW.verifier not in url.query


def test_always_asks_for_openid() -> None:
    url = rule.authorization_url(replace(RULES, scope="email groups"), METADATA, FLOW)
    assert parse_qs(urlsplit(url).query)["scope"] == ["openid email groups"]


@pytest.mark.parametrize(
    ("offline", "known", "asked"),
    [
        (None, ["openid", "offline_access"], True),
        (None, ["openid"], False),
        (None, "offline_access", False),
        (None, None, False),
        (True, None, True),
        (False, ["offline_access"], False),
    ],
)
def test_asks_for_offline_access_where_told_to_or_where_it_is_advertised(
    offline: bool | None, known: object, asked: bool
) -> None:
    metadata = METADATA | {"scopes_supported": known}
    url = rule.authorization_url(replace(RULES, offline=offline), metadata, FLOW)
    scope = parse_qs(urlsplit(url).query)["scope"][0].split()
    assert ("offline_access" in scope) is asked


def test_a_sign_in_goes_without_offline_access_where_that_alone_was_refused() -> None:
    metadata = METADATA | {"scopes_supported": ["openid", "offline_access"]}
    for error in ("invalid_scope", "not_allowed"):
        assert rule.may_go_without(RULES, metadata, FLOW, error)
        assert not rule.may_go_without(RULES, METADATA, FLOW, error), "it was not asked for"
        told = (replace(RULES, offline=True), replace(RULES, scope="openid offline_access"))
        assert not any(rule.may_go_without(rules, metadata, FLOW, error) for rules in told)
        assert not rule.may_go_without(RULES, metadata, replace(FLOW, online=True), error)
    errors: list[object] = [None, "access_denied", "invalid_grant", ["invalid_scope"], 7]
    assert not any(rule.may_go_without(RULES, metadata, FLOW, error) for error in errors)
    url = rule.authorization_url(RULES, metadata, replace(FLOW, online=True))
    assert parse_qs(urlsplit(url).query)["scope"] == ["openid groups"]


def test_a_refresh_token_is_short_and_printable() -> None:
    assert rule.refresh_token_in({"refresh_token": "rt-1"}) == "rt-1"
    odds: list[object] = [None, [], {}, {"refresh_token": 7}, {"refresh_token": ""}]
    for odd in odds:
        assert rule.refresh_token_in(odd) is None
    for token in ("x" * 16385, "a\nb", "é"):
        assert rule.refresh_token_in({"refresh_token": token}) is None


def test_keeps_the_query_an_endpoint_has() -> None:
    metadata = METADATA | {"authorization_endpoint": f"{IDP}/authorize?p=b2c"}
    assert rule.authorization_url(RULES, metadata, FLOW).startswith(
        f"{IDP}/authorize?p=b2c&response_type=code&"
    )


@pytest.mark.parametrize(
    "endpoint",
    [
        None, 7, "", "/authorize", "javascript:alert(1)", "data:text/html,x",
        "http://idp.example.com/authorize", "ftp://idp.example.com/", "https://",
        "https://user@idp.example.com/a", "https://user:pw@idp.example.com/a",
        "https://idp.example.com/a#f", "https://idp.example.com/a b", "https://idp.example.com\\@evil/",
        "https://idp.example.com/a\r\nSet-Cookie: x=y", "https://[::1", "https://idp.example.com/é",
        "https://idp.example.com/a?client_id=other", "https://idp.example.com/a?x=1&state=fixed",
        "https://idp.example.com/a?redirect_uri=https%3A%2F%2Fevil.example",
    ],
)  # fmt: skip
def test_an_endpoint_that_cannot_be_followed_safely_is_not(endpoint: object) -> None:
    with pytest.raises(UpstreamFailed):
        rule.authorization_url(RULES, METADATA | {"authorization_endpoint": endpoint}, FLOW)


def test_plain_http_is_followed_in_dev_only() -> None:
    metadata = METADATA | {"authorization_endpoint": "http://127.0.0.1:9000/authorize"}
    assert rule.authorization_url(replace(RULES, dev=True), metadata, FLOW)


@pytest.mark.parametrize("methods", [[], ["plain"], "S256", {"S256": 1}])
def test_pkce_is_never_left_out(methods: object) -> None:
    metadata = METADATA | {"code_challenge_methods_supported": methods}
    with pytest.raises(UpstreamFailed, match="PKCE"):
        rule.authorization_url(RULES, metadata, FLOW)


def test_a_public_client_needs_an_issuer_that_says_it_does_pkce() -> None:
    silent = {k: v for k, v in METADATA.items() if k != "code_challenge_methods_supported"}
    assert rule.authorization_url(RULES, silent, FLOW)
    with pytest.raises(UpstreamFailed, match="PKCE"):
        rule.authorization_url(replace(RULES, confidential=False), silent, FLOW)


def test_reads_an_answer_whose_parameters_stand_once() -> None:
    assert rule.read_callback(b"code=c&state=s") == {"code": "c", "state": "s"}
    for query in (b"code=c&code=d", b"code=%ff", b"code=\xff", b"&".join([b"a=b"] * 30)):
        with pytest.raises(SignInRefused):
            rule.read_callback(query)


@given(st.binary(max_size=200))
def test_no_answer_breaks_the_reading(query: bytes) -> None:
    try:
        answer = rule.read_callback(query)
        rule.judge_callback(answer, METADATA, RULES, FLOW)
    except SignInRefused as refusal:
        assert refusal.reason.isprintable()


def answered(said: Mapping[str, Any] = METADATA, **answer: str) -> str:
    return rule.judge_callback(answer, said, RULES, FLOW)


def test_takes_the_code_of_the_issuer_that_was_asked() -> None:
    says = METADATA | {"authorization_response_iss_parameter_supported": True}
    assert answered(code="c") == "c"
    assert answered(code="c", iss=IDP) == "c"
    assert answered(says, code="c", iss=IDP) == "c"


@pytest.mark.parametrize("iss", ["https://evil.example", f"{IDP}/", "", IDP.upper()])
@pytest.mark.parametrize("more", [{"code": "c"}, {"error": "access_denied"}])
def test_an_answer_of_another_issuer_is_refused_whatever_it_says(
    iss: str, more: dict[str, str]
) -> None:
    with pytest.raises(SignInRefused, match="not of the identity provider") as refused:
        rule.judge_callback({"iss": iss, **more}, METADATA, RULES, FLOW)
    assert not refused.value.cancelled


def test_an_issuer_that_says_it_names_itself_must() -> None:
    says = METADATA | {"authorization_response_iss_parameter_supported": True}
    with pytest.raises(SignInRefused, match="not of the identity provider"):
        answered(says, code="c")


def test_an_answer_to_a_flow_at_another_issuer_is_refused() -> None:
    flow = replace(FLOW, issuer="https://before.example")
    with pytest.raises(SignInRefused, match="elsewhere"):
        rule.judge_callback({"code": "c", "iss": flow.issuer}, METADATA, RULES, flow)


def test_an_error_is_told_by_its_code_only() -> None:
    with pytest.raises(SignInRefused, match=r"answered server_error$"):
        answered(error="server_error", error_description="Call 555-0100 <b>now</b>")
    with pytest.raises(SignInRefused, match=r"an unknown error$"):
        answered(error="<script>alert(1)</script>")
    with pytest.raises(SignInRefused) as refused:
        answered(error="access_denied")
    assert refused.value.cancelled


@pytest.mark.parametrize("code", ["", "x" * 4097, "a\nb", "é"])
def test_a_code_is_short_and_printable(code: str) -> None:
    with pytest.raises(SignInRefused, match="no code"):
        answered(code=code)


def test_redeems_with_the_verifier_and_the_same_redirect_uri() -> None:
    assert rule.code_request(RULES, FLOW, "c") == {
        "grant_type": "authorization_code",
        "code": "c",
        "redirect_uri": f"{US}/oauth/callback",
        "code_verifier": FLOW.verifier,
    }


@pytest.mark.parametrize("document", [None, [], {}, {"id_token": 7}, {"access_token": "a"}])
def test_an_answer_without_an_id_token_signs_nobody_in(document: object) -> None:
    with pytest.raises(SignInRefused):
        rule.id_token_of(200, document)
    with pytest.raises(SignInRefused):
        rule.id_token_of(400, {"id_token": "t"})


def test_learns_who_it_is_and_which_groups_they_are_in() -> None:
    person = judge(groups=["support"], name="Alice A.", acr="mfa", auth_time=NOW - 9, azp="agentgw")
    assert person == Person(
        Subject("acme", "alice", "acme|alice"),
        frozenset({"acme:group:support"}),
        "Alice A.",
        "mfa",
        NOW - 9,
    )
    assert judge(None) == Person(Subject("acme", "alice", "acme|alice"), frozenset())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"iss": "https://evil.example"}, "another issuer"),
        ({"iss": None}, "another issuer"),
        ({"aud": "other"}, "another client"),
        ({"aud": ["agentgw", "other"]}, "another client"),
        ({"aud": []}, "no audience"),
        ({"aud": None}, "no audience"),
        ({"azp": "other"}, "another client"),
        ({"azp": 7}, "another client"),
        ({"nonce": None}, "nonce"),
        ({"nonce": "n" * 21}, "nonce"),
        ({"nonce": ["n" * 22]}, "nonce"),
        ({"exp": NOW}, "expired"),
        ({"exp": None}, "no exp"),
        ({"iat": None}, "iat"),
        ({"iat": NOW - 661, "exp": NOW + 60}, "iat"),
        ({"iat": NOW + 61}, "future"),
        ({"nbf": NOW + 61}, "not valid yet"),
        ({"exp": NOW + 90_000}, "lives longer"),
        ({"sub": ""}, "sub"),
        ({"sub": None}, "sub"),
        ({"sub": "a\nb"}, "sub"),
        ({"auth_time": "yesterday"}, "auth_time"),
        ({"auth_time": NOW + 3600}, "auth_time"),
        ({"auth_time": True}, "auth_time"),
        ({"acr": ["mfa"]}, "acr"),
        ({"acr": "x" * 256}, "acr"),
    ],
)
def test_an_id_token_that_proves_nobody_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidToken, match=reason):
        judge(**changes)


@pytest.mark.parametrize("typ", ["at+jwt", "logout+jwt", "dpop+jwt", ""])
def test_a_token_of_another_kind_is_no_id_token(typ: str) -> None:
    with pytest.raises(InvalidToken, match="typ"):
        judge(typ)


def test_an_algorithm_its_issuer_is_not_configured_with_is_refused() -> None:
    with pytest.raises(InvalidToken, match="alg"):
        judge(alg="RS256")


def test_the_issuers_own_rules_say_how_a_user_is_named() -> None:
    rules = replace(RULES.issuer, user_claim="email", email_domains=frozenset({"acme.example"}))
    with pytest.raises(InvalidToken, match="verified"):
        rule.judge_id_token(
            CLAIMS | {"email": "a@acme.example"},
            None,
            "ES256",
            replace(RULES, issuer=rules),
            FLOW,
            NOW,
        )


def test_a_name_that_cannot_be_shown_is_passed_over() -> None:
    assert judge(name="a\nb", preferred_username="alice").name == "alice"
    assert judge(name="x" * 101, email="a@b").name == "a@b"
    assert judge(name=["x"]).name is None


def test_a_session_comes_back_as_it_was_kept() -> None:
    person = judge(groups=["support", "admins"], name="Alice", acr="mfa", auth_time=NOW)
    kept = {"exp": NOW + 60, "sid": "sid-1", "at": NOW, "renewable": True}
    session = rule.in_session(rule.read_person(rule.to_payload(person)), kept)
    assert (session.subject, session.groups, session.name) == (
        person.subject, person.groups, person.name
    )  # fmt: skip
    assert (session.acr, session.auth_time) == (person.acr, person.auth_time)
    assert (session.exp, session.sid) == (NOW + 60, "sid-1")
    assert (session.at, session.renewable) == (NOW, True)
