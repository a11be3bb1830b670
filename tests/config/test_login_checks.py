"""What a configuration may say of signing in."""

from __future__ import annotations

import pytest

from .conftest import HEAD, Load, Refusal

ISSUER = "issuers: {acme: {issuer: 'https://idp.example.com', audiences: [gw]}}\n"


def login(more: str = "") -> str:
    return f"login: {{issuer: acme, client_id: agentgw{', ' + more if more else ''}}}\n"


def test_absent_nobody_signs_in(read: Load) -> None:
    assert read(HEAD + ISSUER).login is None


def test_defaults_are_eight_hours_thirty_days_and_one_day(read: Load) -> None:
    found = read(HEAD + ISSUER + login("client_secret: s")).login
    assert found is not None
    assert (found.session_life, found.consent_life, found.refresh_life) == (28800, 2592000, 86400)
    assert (found.recheck, found.recheck_limit, found.max_age) == (3600, 28800, 86400)
    assert found.scope == "openid" and found.offline_access is None


def test_times_may_be_written_with_their_unit(read: Load) -> None:
    found = read(HEAD + ISSUER + login("session_life: 1h, consent_life: 7d")).login
    assert found is not None and (found.session_life, found.consent_life) == (3600, 604800)


def test_a_secret_is_in_no_output(read: Load) -> None:
    config = read(HEAD + ISSUER + login("client_secret: hush-hush"))
    assert "hush" not in f"{config!r} {config.login!r}"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("issuer: acm", "unknown issuer 'acm'"),
        ("client_secret: s, client_key: k.pem", "one of client_secret and client_key"),
        ("client_secret: ''", "client_secret"),
        ("client_key_id: k1", "has no client_key"),
        ("session_life: 59", "session_life"),
        ("session_life: 8d", "session_life"),
        ("session_life: soon", "session_life"),
        ("consent_life: 367d", "consent_life"),
        ("refresh_life: 10", "refresh_life"),
        ("consent_life: 1h", "refresh_life longer than consent_life"),
        ("recheck: 25h", "recheck"),
        ("recheck_limit: 8d", "recheck_limit"),
        ("recheck: 2h, recheck_limit: 1h", "recheck longer than recheck_limit"),
        ("max_age: 59", "max_age"),
        ("max_age: 31d", "max_age"),
        ("scope: 'open  id'", "scope"),
        ("sesion_life: 60", "sesion_life"),
    ],
)
def test_what_cannot_be_is_refused_at_its_line(refuse: Refusal, more: str, message: str) -> None:
    text = login(more)
    if more.startswith("issuer"):
        text = f"login: {{client_id: agentgw, {more}}}\n"
    error = refuse(HEAD + ISSUER + text)
    assert message in str(error) and error.line == 4


def test_an_issuer_on_plain_http_needs_dev(refuse: Refusal) -> None:
    error = refuse(HEAD + ISSUER.replace("https://idp", "http://idp") + login())
    assert "plain http" in error.message and error.line == 3


def test_sessions_never_travel_in_plain_text(refuse: Refusal, read: Load) -> None:
    insecure = "version: 1\npublic_url: http://gw.example.com\ninsecure: true\n"
    error = refuse(insecure + ISSUER + login())
    assert "plain text" in error.message and error.line == 5
    laptop = "version: 1\npublic_url: http://127.0.0.1:7117\n"
    assert read(laptop + ISSUER + login()).login is not None


def test_the_gateways_own_client_is_no_agent(refuse: Refusal) -> None:
    agents = "agents: {a: {clients: [{issuer: acme, client_id: agentgw}]}}\n"
    error = refuse(HEAD + ISSUER + login() + agents)
    assert "gateway's own" in error.message and error.line == 5
