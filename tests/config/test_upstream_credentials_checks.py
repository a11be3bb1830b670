"""What a configuration may say of accounts at tool servers, users' and the gateway's own."""

from __future__ import annotations

import pytest

from .conftest import HEAD, Load, Refusal

AS = "authorization_servers: {acme: {issuer: 'https://idp.example', client_id: gw, client_secret: s}}\n"


def server(auth: str, name: str = "a") -> str:
    return f"servers: {{{name}: {{url: 'https://{name}.example/mcp', auth: {{{auth}}}}}}}\n"


def test_a_server_may_know_users_by_accounts_of_their_own(read: Load) -> None:
    found = read(HEAD + server("mode: oauth, oauth: {}")).servers["a"]
    assert found.auth.oauth is not None and found.audience is None
    assert found.chain_assurance == "audit-only"


@pytest.mark.parametrize(
    ("auth", "mode"),
    [
        ("oauth: {}", "oauth"),
        ("client_credentials: {authorization_server: acme, audience: t}", "client_credentials"),
    ],
)
def test_a_section_without_a_mode_says_the_mode(read: Load, auth: str, mode: str) -> None:
    assert read(HEAD + AS + server(auth)).servers["a"].auth.mode == mode


@pytest.mark.parametrize(
    ("auth", "message"),
    [
        ("mode: oauth", "should have auth.oauth with mode oauth"),
        (
            "mode: token, oauth: {scope: a}",
            "should have auth.oauth with mode oauth, and only there",
        ),
        ("mode: oauth, audience: 'https://x.example', oauth: {}", "should name its resource under"),
        ("oauth: {client_id: c}", "should name the issuer at which client_id is registered"),
        ("oauth: {client_secret: s}", "no client_id it belongs to"),
        (
            "oauth: {issuer: 'https://i.example', client_id: c, client_secret: s, client_key: k.pem}",
            "one of client_secret and client_key",
        ),
        ("oauth: {issuer: 'https://i.example', client_id: c, client_key_id: k}", "no client_key"),
        ("oauth: {issuer: 'http://i.example'}", "issuer is plain http or loopback"),
        ("oauth: {issuer: 'https://127.0.0.1'}", "issuer is plain http or loopback"),
        ("oauth: {timeout: 60}", "timeout"),
        ("oauth: {dynamic: true}", "dynamic"),
        (
            "oauth: {issuer: 'https://i.example', client_id: c, client_auth: tls_client_auth}",
            "not available in this version",
        ),
        ("mode: client_credentials", "should have auth.client_credentials"),
        ("client_credentials: {authorization_server: acme}", "should have audience or resource"),
        (
            "client_credentials: {authorization_server: acm, audience: t}",
            "unknown authorization server 'acm'",
        ),
    ],
)
def test_a_wrong_account_is_refused_at_its_line(refuse: Refusal, auth: str, message: str) -> None:
    error = refuse(HEAD + AS + server(auth))
    assert message in str(error) and error.line == 4


def test_certificates_as_the_gateways_own_proof_are_refused_as_not_available(
    refuse: Refusal,
) -> None:
    text = AS.replace("client_secret: s", "client_secret: s, client_auth: tls_client_auth")
    error = refuse(HEAD + text)
    assert "is not available in this version" in error.message and error.line == 3


def test_two_servers_never_share_the_audience_of_one_account(refuse: Refusal) -> None:
    auth = "auth: {client_credentials: {authorization_server: acme, audience: t}}"
    each = ", ".join(f"{name}: {{url: 'https://{name}.example', {auth}}}" for name in "ab")
    assert (
        "the audience of b is that of a too" in refuse(HEAD + AS + f"servers: {{{each}}}").message
    )


ISSUER = "issuers: {acme: {issuer: 'https://idp.example', audiences: [gw]}}\n"
AGENT = "agents: {job: {auth: {secret: a-long-enough-secret}, client_credentials: {}}}\n"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("users: ['*'], agents: [job], account_of: 'acme|u'", "agents acting for themselves only"),
        (
            "users: ['agent:job', 'acme|bob'], agents: [job], account_of: 'acme|u'",
            "agents acting for themselves only",
        ),
        ("agents: [job], account_of: 'acme|u'", "agents acting for themselves only"),
        ("users: ['agent:job'], deny: true, account_of: 'acme|u'", "belongs in a row that allows"),
        ("users: ['agent:job'], agents: [job], account_of: 'u'", "no alias|sub"),
        ("users: ['agent:job'], agents: [job], account_of: 'other|u'", "no alias|sub"),
    ],
)
def test_an_account_is_lent_only_to_agents_that_act_for_themselves(
    refuse: Refusal, row: str, message: str
) -> None:
    grants = f"grants: [{{{row}, tools: [a/x]}}]\n"
    error = refuse(HEAD + ISSUER + AGENT + server("oauth: {}") + grants)
    assert message in error.message
