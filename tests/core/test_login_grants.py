"""The grants behind a login: what redeems, refreshes and issues, and what ends the login instead."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgw.core.canonical import b64url
from agentgw.core.consent import Consent
from agentgw.core.exchange_rules import ExchangeAgent, ExchangeRules
from agentgw.core.login_grants import (
    Code,
    CodeRequest,
    RefreshRequest,
    RefreshToken,
    UsedTwice,
    issue_by_login,
    judge_code,
    judge_refresh,
    parse_login_request,
)
from agentgw.core.one_time import Kept
from agentgw.core.possession import BARE, Binding, Presented
from agentgw.core.principal import Hop, Issued, Subject
from agentgw.errors import OAuthError

GW = "https://gw.example.com"
MCP, TIME = f"{GW}/mcp", f"{GW}/mcp/time"
NOW = 1_700_000_000
VERIFIER = "v" * 43
CODE = Code(
    "login-1",
    "desktop",
    "http://127.0.0.1:1/cb",
    b64url(hashlib.sha256(VERIFIER.encode()).digest()),
    NOW + 60,
)
ASKED = CodeRequest("code", VERIFIER, CODE.redirect_uri, None)
TOKEN = RefreshToken("login-1", "desktop", NOW + 3600)
REFRESH = RefreshRequest("token", None, None)
LOGIN = Issued(
    jti="login-1",
    kind="login",
    parent=None,
    subject=Subject("acme", "alice", "acme|alice"),
    groups=frozenset({"acme:group:support"}),
    chain=(Hop(f"{GW}/a2a/desktop", "desktop", "consent"),),
    audience=MCP,
    scopes=frozenset({"read", "write"}),
    txn="t-login",
    iat=NOW,
    exp=NOW + 86_400,
    presenter="desktop",
    acr="gold",
    auth_time=NOW - 5,
    resources=frozenset({MCP}),
    consent=Consent(frozenset({"time/now"}), frozenset(), frozenset()),
)


def rules(let_in: frozenset[str] = frozenset({"desktop"}), **changes: Any) -> ExchangeRules:
    agent = replace(ExchangeAgent("desktop", f"{GW}/a2a/desktop"), **changes)
    other = ExchangeAgent("other", f"{GW}/a2a/other")
    return ExchangeRules(
        GW, frozenset({MCP, TIME}), {"desktop": agent, "other": other}, 300, let_in=let_in
    )


def kept(code: Code = CODE, used: int | None = None) -> Kept:
    return Kept(code.payload(), NOW + 600, used)


def issue(
    asked: RefreshRequest | CodeRequest = REFRESH,
    login: Issued | None = LOGIN,
    by: ExchangeRules | None = None,
    client: str = "desktop",
    presented: Presented = BARE,
) -> Issued:
    made = issue_by_login(
        asked, login, client, by or rules(), now=NOW, jti="a-1", txn="t-1", evidence="consent",
        presented=presented,
    )  # fmt: skip
    return made.issued


def test_a_code_is_redeemed_by_who_began() -> None:
    assert judge_code(ASKED, kept(), "desktop", BARE, NOW) == CODE
    without = replace(ASKED, redirect_uri=None)
    assert judge_code(without, kept(), "desktop", BARE, NOW) == CODE


@pytest.mark.parametrize(
    ("asked", "code", "client", "presented"),
    [
        (ASKED, CODE, "other", BARE),
        (replace(ASKED, verifier="w" * 43), CODE, "desktop", BARE),
        (replace(ASKED, redirect_uri="http://127.0.0.1:2/cb"), CODE, "desktop", BARE),
        (ASKED, replace(CODE, until=NOW), "desktop", BARE),
        (ASKED, replace(CODE, jkt="k1"), "desktop", BARE),
        (ASKED, replace(CODE, jkt="k1"), "desktop", Presented(jkt="k2")),
    ],
)
def test_another_redeems_nothing(
    asked: CodeRequest, code: Code, client: str, presented: Presented
) -> None:
    with pytest.raises(OAuthError) as refused:
        judge_code(asked, kept(code), client, presented, NOW)
    assert refused.value.error == "invalid_grant"
    assert not isinstance(refused.value, UsedTwice)
    with pytest.raises(OAuthError):
        judge_code(asked, None, client, presented, NOW)


def test_a_second_use_names_the_login_whoever_it_is() -> None:
    for client in ("desktop", "other"):
        with pytest.raises(UsedTwice) as twice:
            judge_code(ASKED, kept(used=NOW - 1), client, BARE, NOW)
        assert twice.value.login == "login-1"
        with pytest.raises(UsedTwice) as twice:
            judge_refresh(replace(TOKEN, used=True), client, BARE, NOW)
        assert twice.value.login == "login-1"


@pytest.mark.parametrize(
    ("found", "client", "presented"),
    [
        (None, "desktop", BARE),
        (replace(TOKEN, exp=NOW), "desktop", BARE),
        (TOKEN, "other", BARE),
        (replace(TOKEN, jkt="k1"), "desktop", BARE),
        (replace(TOKEN, jkt="k1"), "desktop", Presented(jkt="k2")),
    ],
)
def test_another_refreshes_nothing(
    found: RefreshToken | None, client: str, presented: Presented
) -> None:
    with pytest.raises(OAuthError) as refused:
        judge_refresh(found, client, presented, NOW)
    assert refused.value.error == "invalid_grant"
    assert judge_refresh(replace(TOKEN, jkt="k1"), "desktop", Presented(jkt="k1"), NOW)


def test_what_is_issued_is_what_the_user_allowed() -> None:
    issued = issue()
    assert (issued.kind, issued.parent, issued.presenter) == (
        "gateway", "login-1", f"{GW}/a2a/desktop"
    )  # fmt: skip
    assert issued.chain == (Hop(f"{GW}/a2a/desktop", "desktop", "consent"),)
    assert (issued.subject, issued.groups) == (LOGIN.subject, LOGIN.groups)
    assert (issued.consent, issued.scopes) == (LOGIN.consent, LOGIN.scopes)
    assert (issued.acr, issued.auth_time) == ("gold", NOW - 5)
    assert issued.exp == NOW + 300
    assert issue(login=replace(LOGIN, exp=NOW + 100)).exp == NOW + 100
    narrow = issue(RefreshRequest("t", frozenset({"read"}), TIME))
    assert (narrow.scopes, narrow.audience) == (frozenset({"read"}), TIME)
    bound = issue(presented=Presented(jkt="k1"))
    assert bound.binding == Binding(jkt="k1")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"login": None}, "invalid_grant"),
        ({"login": replace(LOGIN, exp=NOW + 2)}, "invalid_grant"),
        ({"login": replace(LOGIN, kind="gateway")}, "invalid_grant"),
        ({"client": "other", "by": rules(frozenset({"other"}))}, "invalid_grant"),
        ({"client": "nobody"}, "unauthorized_client"),
        ({"by": rules(disabled=True)}, "unauthorized_client"),
        ({"by": rules(frozenset())}, "unauthorized_client"),
        ({"by": rules(require="dpop")}, "invalid_dpop_proof"),
        ({"asked": RefreshRequest("t", frozenset({"admin"}), None)}, "invalid_scope"),
        ({"asked": RefreshRequest("t", None, f"{GW}/a2a/other")}, "invalid_target"),
        (
            {
                "asked": RefreshRequest("t", None, MCP),
                "login": replace(LOGIN, audience=TIME, resources=frozenset({TIME})),
            },
            "invalid_target",
        ),
    ],
)
def test_what_the_user_allowed_is_judged_by_todays_rules(
    changes: dict[str, Any], error: str
) -> None:
    with pytest.raises(OAuthError) as refused:
        issue(**changes)
    assert refused.value.error == error


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "grant_type",
                "code",
                "code_verifier",
                "refresh_token",
                "device_code",
                "scope",
                "resource",
            ]
        ),
        st.text(min_size=1, max_size=250),
    )
)
def test_any_form_makes_a_request_or_a_refusal(form: dict[str, str]) -> None:
    for grant in ("authorization_code", "refresh_token", "device"):
        try:
            parse_login_request({**form, "grant_type": grant})
        except OAuthError as refused:
            assert refused.error in ("invalid_request", "invalid_grant", "invalid_scope")


@given(st.text(max_size=200))
def test_a_verifier_is_43_to_128_unreserved_characters(verifier: str) -> None:
    unreserved = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~")
    right = 43 <= len(verifier) <= 128 and set(verifier) <= unreserved
    form = {"grant_type": "authorization_code", "code": "c", "code_verifier": verifier}
    if right:
        assert parse_login_request(form)
    else:
        with pytest.raises(OAuthError):
            parse_login_request(form)
