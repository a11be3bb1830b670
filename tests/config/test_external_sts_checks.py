"""What a configuration may say of authorization servers that are not ours."""

from __future__ import annotations

import pytest

from .conftest import HEAD, Load, Refusal

AS = "authorization_servers: {acme: {issuer: 'https://idp.example', client_id: gw, client_secret: s}}\n"


def server(exchange: str, name: str = "a") -> str:
    auth = f"{{mode: exchange, exchange: {{{exchange}}}}}"
    return f"{name}: {{url: 'https://{name}.example/mcp', auth: {auth}}}"


def test_a_server_may_take_the_tokens_of_another(read: Load) -> None:
    text = f"servers: {{{server('authorization_server: acme, audience: tickets')}}}\n"
    config = read(HEAD + AS + text)
    found = config.servers["a"]
    assert found.auth.mode == "exchange" and found.audience is None
    assert found.auth.exchange is not None
    assert found.auth.exchange.expected_audience == "tickets"
    assert found.chain_assurance == "audit-only"


def test_an_exchange_without_a_mode_says_the_mode(read: Load) -> None:
    auth = "{exchange: {authorization_server: acme, audience: t}}"
    text = f"servers: {{a: {{url: 'https://a.example', auth: {auth}}}}}\n"
    assert read(HEAD + AS + text).servers["a"].auth.mode == "exchange"


@pytest.mark.parametrize(
    ("exchange", "message"),
    [
        ("authorization_server: acm, audience: t", "unknown authorization server 'acm'"),
        ("authorization_server: acme", "should have audience or resource"),
        ("authorization_server: acme, audience: t, grant: id-jag", "should have via"),
        ("authorization_server: acme, audience: t, via: acme", "should have via"),
        (
            "authorization_server: acme, audience: t, grant: id-jag, via: acme",
            "the same server twice",
        ),
        ("authorization_server: acme, audience: t, scop: x", "scop"),
    ],
)
def test_a_wrong_exchange_is_refused_at_its_line(
    refuse: Refusal, exchange: str, message: str
) -> None:
    error = refuse(HEAD + AS + f"servers: {{{server(exchange)}}}\n")
    assert message in error.message and error.line == 4


@pytest.mark.parametrize(
    ("account", "message"),
    [
        ("client_id: gw", "exactly one of client_secret and client_key"),
        ("client_id: gw, client_secret: s, client_key: k.pem", "exactly one of client_secret"),
        ("client_id: gw, client_secret: s, client_key_id: k", "has no client_key"),
        ("client_id: gw, client_key: k.pem, tokens: introspection", "needs client_secret"),
        ("client_id: gw, client_secret: s, token_endpoint: 'http://idp.example/t'", "plain http"),
        ("client_id: gw, client_secret: s, jwks_uri: 'https://127.0.0.1/k'", "loopback"),
    ],
)
def test_a_wrong_account_is_refused_at_its_line(
    refuse: Refusal, account: str, message: str
) -> None:
    text = f"authorization_servers: {{acme: {{issuer: 'https://idp.example', {account}}}}}\n"
    error = refuse(HEAD + text)
    assert message in error.message and error.line == 3


def test_two_servers_never_share_an_audience_of_one_authorization_server(refuse: Refusal) -> None:
    same = "authorization_server: acme, audience: tickets"
    error = refuse(HEAD + AS + f"servers: {{{server(same)}, {server(same, 'b')}}}\n")
    assert "the audience of b is that of a too" in error.message


def test_no_agent_stands_behind_a_server_that_gets_no_token_of_ours(refuse: Refusal) -> None:
    text = server("authorization_server: acme, audience: t")[:-1] + ", agent: coder}"
    error = refuse(HEAD + AS + f"agents: {{coder: {{}}}}\nservers: {{{text}}}\n")
    assert "gets no tokens of ours" in error.message
