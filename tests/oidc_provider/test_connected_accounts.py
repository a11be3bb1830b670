"""Users' accounts at a real authorization server, which protects a real MCP server."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.harness import Issuer
from tests.oidc_provider.notes import Notes
from tests.oidc_provider.notes import notes as run_notes
from tests.oidc_provider.server import OidcProvider

pytestmark = pytest.mark.oidc_provider
ACCOUNTS = {"anna": "alice", "ben": "bob"}
"""Users of the gateway, and what they are called at the provider."""


@pytest.fixture(scope="module")
def notes(
    tmp_path_factory: pytest.TempPathFactory, provider: OidcProvider, issuer: Issuer
) -> Iterator[Notes]:
    with run_notes(tmp_path_factory.mktemp("notes"), provider, issuer) as running:
        for user, account in ACCOUNTS.items():
            running.connect(user, account)
        yield running


def interleaved(notes: Notes, count: int) -> None:
    """Calls of both users in turns, eight at a time; each must see their own account, always."""
    tokens = {user: notes.gw.token(sub=user) for user in ACCOUNTS}

    def call(number: int) -> tuple[str, str]:
        user = list(ACCOUNTS)[number % 2]
        answer = notes.call(user, tokens[user])
        return user, answer.text

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(call, range(count)))
    assert len(answers) == count
    for user, text in answers:
        assert f"the notes of {ACCOUNTS[user]}" in text, (user, text)
        others = [account for who, account in ACCOUNTS.items() if who != user]
        assert not any(account in text for account in others), (user, text)


def test_neither_of_two_users_ever_sees_the_others_data(notes: Notes) -> None:
    interleaved(notes, 300)


@pytest.mark.slow
def test_neither_of_two_users_ever_sees_the_others_data_in_ten_thousand_calls(
    notes: Notes,
) -> None:
    interleaved(notes, 10_000)


def test_the_server_sees_the_credentials_of_accounts_and_nothing_else(notes: Notes) -> None:
    assert notes.whose("anna") == "the notes of alice"
    callers = set(notes.gw.issuer.issued)
    assert notes.verifier.seen and not callers & set(notes.verifier.seen)
    written = b"".join(p.read_bytes() for p in notes.gw.state.rglob("*") if p.is_file())
    written += notes.gw.output.encode()
    assert not [token for token in set(notes.verifier.seen) if token.encode() in written]


def test_a_link_opened_by_the_wrong_user_connects_nothing(notes: Notes) -> None:
    link = notes.link("mallory")
    assert notes.browser("anna").open(link).status_code == 403
    assert notes.browser("mallory").open(link).status_code == 400
    assert notes.link("mallory") != link
    assert notes.whose("anna") == "the notes of alice"


def test_an_access_token_that_the_provider_ended_early_is_refreshed(notes: Notes) -> None:
    assert notes.whose("ben") == "the notes of bob"
    token = notes.verifier.seen[-1]
    with notes.provider.http() as http:
        assert http.post(f"{notes.provider.url}/test/end/{token}").status_code == 204
    assert notes.whose("ben") == "the notes of bob"
    assert notes.verifier.seen[-1] != token


def test_access_tokens_that_end_are_refreshed_and_each_refresh_token_is_spent_once(
    tmp_path_factory: pytest.TempPathFactory, provider: OidcProvider, issuer: Issuer
) -> None:
    folder = tmp_path_factory.mktemp("brief")
    with run_notes(folder, provider, issuer, "/brief/mcp") as running:
        for user, account in ACCOUNTS.items():
            running.connect(user, account)
        before = len(set(running.verifier.seen))
        interleaved(running, 40)
        assert len(set(running.verifier.seen)) > before + 2


def test_an_account_revoked_at_the_provider_is_disconnected_and_connects_again(
    tmp_path_factory: pytest.TempPathFactory, provider: OidcProvider, issuer: Issuer
) -> None:
    with run_notes(tmp_path_factory.mktemp("revoked"), provider, issuer) as running:
        running.connect("anna", "alice")
        assert running.whose("anna") == "the notes of alice"
        with provider.http() as http:
            answer = http.post(f"{provider.url}/test/forget/{running.client_id}")
            assert answer.status_code == 204, answer.text
        assert running.link("anna")
        running.connect("anna", "alice")
        assert running.whose("anna") == "the notes of alice"
