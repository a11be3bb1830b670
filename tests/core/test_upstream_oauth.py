"""The rules by which the gateway is an OAuth client of a tool server's own authorization server."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgw.core import upstream_oauth as rule
from agentgw.core.connected import Account, content_of
from agentgw.core.upstream_oauth import Challenge, Endpoints, GrantSpent, Tokens
from agentgw.errors import UpstreamFailed

URL = "https://saas.example/mcp"
ISSUER = "https://as.example"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner),
    max_leaves=8,
)
SCOPES = st.frozensets(st.sampled_from(["a", "b", "c", "notes.read", "notes.write"]))


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, Challenge()),
        ("Basic realm=x", Challenge()),
        ("Bearer", Challenge()),
        (
            'Bearer error="invalid_token", resource_metadata="https://s/x", scope="a b"',
            Challenge("https://s/x", frozenset({"a", "b"}), "invalid_token"),
        ),
        ('Basic realm="x", bearer scope="a"', Challenge(None, frozenset({"a"}))),
        ("Bearer scope=a", Challenge(None, frozenset({"a"}))),
        ('Bearer scope="a", scope="b"', Challenge(None, frozenset({"a"}))),
        (r'Bearer error="in\"valid"', Challenge(error='in"valid')),
    ],
)
def test_a_challenge_is_read(header: str | None, expected: Challenge) -> None:
    assert rule.read_challenge(header) == expected


@pytest.mark.parametrize(
    "piece", ["a", "a ", "a= ", 'a="', "=", ",", " ", "bearer ", "bearer a=", "\\"]
)
def test_a_long_challenge_holds_up_nobody(piece: str) -> None:
    header = "Bearer a=b, " + piece * (60_000 // len(piece))
    before = time.process_time()
    rule.read_challenge(header)
    assert time.process_time() - before < 0.3


@given(st.text(max_size=300))
def test_no_challenge_breaks_the_reader(text: str) -> None:
    for scope in rule.read_challenge("Bearer " + text).scopes:
        assert scope.isascii() and " " not in scope and '"' not in scope


def test_metadata_is_looked_for_where_the_challenge_says_then_by_path_then_at_the_root() -> None:
    well_known = "https://saas.example/.well-known/oauth-protected-resource"
    assert rule.resource_metadata_urls(URL, Challenge("https://x.example/m")) == (
        "https://x.example/m",
        f"{well_known}/mcp",
        well_known,
    )
    assert rule.resource_metadata_urls("https://saas.example", Challenge()) == (well_known,)


def test_server_metadata_is_looked_for_in_the_order_of_the_protocol() -> None:
    assert rule.server_metadata_urls("https://as.example/t/1") == (
        "https://as.example/.well-known/oauth-authorization-server/t/1",
        "https://as.example/.well-known/openid-configuration/t/1",
        "https://as.example/t/1/.well-known/openid-configuration",
    )


@pytest.mark.parametrize(
    "same",
    [
        URL,
        URL + "/",
        "HTTPS://SAAS.example/mcp",
        "https://saas.example:443/mcp",
    ],
)
def test_a_resource_may_be_spelled_otherwise(same: str) -> None:
    document = {"resource": same, "authorization_servers": [ISSUER]}
    assert rule.read_resource(document, URL).issuers == (ISSUER,)


@pytest.mark.parametrize(
    "other",
    [
        "https://saas.example",
        "https://saas.example/MCP",
        "https://saas.example/mcp?x",
        "https://saas.example/mcp#x",
        "http://saas.example/mcp",
        "https://saas.example:8443/mcp",
        "https://saas.example.evil/mcp",
        "https://[::1/mcp",
        "",
    ],
)
def test_another_resource_is_refused(other: str) -> None:
    with pytest.raises(UpstreamFailed):
        rule.read_resource({"resource": other, "authorization_servers": [ISSUER]}, URL)


@given(JSON)
def test_whatever_a_document_holds_it_is_read_or_refused(document: Any) -> None:
    for read in (
        lambda: rule.read_resource(document, URL),
        lambda: rule.read_endpoints(document, ISSUER),
        lambda: rule.read_tokens(200, document, 0),
    ):
        with pytest.raises(UpstreamFailed):
            read()


METADATA = {
    "authorization_endpoint": f"{ISSUER}/a",
    "token_endpoint": f"{ISSUER}/t",
    "code_challenge_methods_supported": ["S256"],
}


@pytest.mark.parametrize(
    ("named", "itself", "fits"),
    [
        (ISSUER, ISSUER, True),
        (f"{ISSUER}/", ISSUER, True),  # as the MCP SDK's servers write it
        (f"{ISSUER}/", f"{ISSUER}/", True),
        (ISSUER, f"{ISSUER}/", False),
        (f"{ISSUER}/t/", f"{ISSUER}/t", False),
        (f"{ISSUER}/t", f"{ISSUER}/t/", False),
        (ISSUER, "https://AS.example", False),
    ],
)
def test_an_issuer_is_the_very_one_that_the_resource_names(
    named: str, itself: str, fits: bool
) -> None:
    document = {**METADATA, "issuer": itself}
    if fits:
        assert rule.read_endpoints(document, named).issuer == itself
    else:
        with pytest.raises(UpstreamFailed):
            rule.read_endpoints(document, named)


def test_a_configured_issuer_must_be_one_the_resource_names() -> None:
    named = rule.Resource((f"{ISSUER}/", "https://b.example"), frozenset())
    assert rule.issuer_of(named, ISSUER) == ISSUER
    assert rule.issuer_of(named, "https://b.example") == "https://b.example"
    for other in ("https://b.example/", "https://c.example", f"{ISSUER}/t"):
        with pytest.raises(UpstreamFailed):
            rule.issuer_of(named, other)


@given(SCOPES, SCOPES, SCOPES, SCOPES)
def test_stepping_up_takes_nothing_away(
    held: frozenset[str], demanded: frozenset[str], set_: frozenset[str], named: frozenset[str]
) -> None:
    asked = rule.scopes_to_ask(held, demanded, " ".join(set_) or None, named)
    assert held | demanded | set_ <= asked
    assert asked <= held | demanded | set_ or asked == named


ENDPOINTS = Endpoints(ISSUER, f"{ISSUER}/authorize?tenant=1", f"{ISSUER}/token", True, True)


def test_the_way_there_keeps_the_query_of_the_endpoint_and_asks_for_s256() -> None:
    url = rule.authorization_url(
        ENDPOINTS,
        client_id="c",
        redirect_uri="https://gw/cb",
        state="s",
        code_challenge="x",
        resource=URL,
        scopes=frozenset({"b", "a"}),
    )
    query = parse_qs(urlsplit(url).query)
    assert query["tenant"] == ["1"] and query["code_challenge_method"] == ["S256"]
    assert query["resource"] == [URL] and query["scope"] == ["a b"]


@given(st.dictionaries(st.sampled_from(["code", "iss", "error", "x"]), st.text(max_size=20)))
def test_a_code_is_taken_only_from_the_issuer_it_was_asked_of(said: dict[str, str]) -> None:
    fits = said.get("iss") == ISSUER and "error" not in said and bool(said.get("code"))
    query = urlencode({**said, "state": "s"})
    if fits:
        assert rule.code_of(query, ISSUER, True) == said["code"]
    else:
        with pytest.raises(UpstreamFailed):
            rule.code_of(query, ISSUER, True)


def test_a_server_that_does_not_promise_iss_may_leave_it_out_but_not_lie() -> None:
    assert rule.code_of("code=c", ISSUER, False) == "c"
    with pytest.raises(UpstreamFailed):
        rule.code_of("code=c&iss=https://evil.example", ISSUER, False)


ANSWER = {"access_token": "at", "token_type": "Bearer", "expires_in": 60, "refresh_token": "rt"}


def test_tokens_are_read() -> None:
    assert rule.read_tokens(200, ANSWER, 1000.5) == Tokens("at", "rt", None, 1060)
    assert rule.read_tokens(200, {**ANSWER, "expires_in": "60"}, 0).exp == 60
    assert rule.read_tokens(200, {**ANSWER, "expires_in": None}, 0).exp is None


@pytest.mark.parametrize(
    "change",
    [
        {"access_token": ""},
        {"access_token": "a b"},
        {"access_token": "a\r\nX: 1"},
        {"access_token": "a" * 20_000},
        {"access_token": None},
        {"token_type": "DPoP"},
        {"token_type": None},
        {"expires_in": -1},
        {"expires_in": True},
        {"expires_in": 10**12},
        {"expires_in": 1.5},
        {"scope": ["a"]},
        {"refresh_token": 7},
        {"error": "server_error"},
    ],
    ids=str,
)
def test_an_answer_that_is_no_bearer_token_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UpstreamFailed):
        rule.read_tokens(200, {**ANSWER, **change}, 0)


def test_a_spent_grant_is_told_apart_from_a_server_that_fails() -> None:
    with pytest.raises(GrantSpent):
        rule.read_tokens(400, {"error": "invalid_grant"}, 0)
    for document in ({"error": "invalid_client"}, {"error": ["invalid_grant"]}, {}):
        with pytest.raises(UpstreamFailed) as caught:
            rule.read_tokens(400, document, 0)
        assert not isinstance(caught.value, GrantSpent)


def test_no_word_of_a_server_that_is_none_of_the_rfcs_is_repeated() -> None:
    with pytest.raises(UpstreamFailed) as caught:
        rule.read_tokens(400, {"error": "<script>", "error_description": "x"}, 0)
    assert "script" not in caught.value.reason


def test_a_refresh_that_brings_no_new_refresh_token_keeps_the_old() -> None:
    before = Account("a1", "r1", frozenset({"s"}), None, "c", 1)
    kept = content_of(Tokens("a2", None, None, 9), "c", before.scopes, before)
    assert Account.read(kept, 2) == Account("a2", "r1", frozenset({"s"}), 9, "c", 2)


def test_no_secret_shows_in_a_repr() -> None:
    assert "at-1" not in repr(Account("at-1", "rt-1", frozenset(), None, "c", 1))
    assert "rt-1" not in repr(Tokens("at-1", "rt-1", None, None))


def test_our_own_document_says_what_a_server_must_check() -> None:
    document = rule.client_document("https://gw.example", ["saas", "mail"])
    assert document["client_id"] == "https://gw.example/oauth/client.json"
    assert document["token_endpoint_auth_method"] == "private_key_jwt"
    assert document["redirect_uris"] == [
        "https://gw.example/oauth/connect/callback/mail",
        "https://gw.example/oauth/connect/callback/saas",
    ]
