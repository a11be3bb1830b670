"""What is explained to developers agrees with what the verifier decides."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgw.core.actor import index_agents
from agentgw.core.revocation import Revoked
from agentgw.errors import InvalidToken
from agentgw.identity.explain import Explainer
from tests.identity.forge import (
    ACME,
    CODER,
    NOW,
    PLANNER,
    US,
    FixedKeys,
    OwnBooks,
    acme_rules,
    acme_token,
    build,
    coder_entry,
    ec_key,
    jwk,
    own_token,
)

pytestmark = pytest.mark.anyio
NAMES = (
    "iss", "aud", "sub", "azp", "client_id", "typ", "scope", "groups", "iat", "exp", "nbf", "jti", "act",
    "may_act", "cnf", "nonce", "events", "token_use", "email", "authorization_details", "txn",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, "", 0, -1, True, [], {}, "x", "coder", "planner", ACME, US, f"{US}/mcp", [f"{US}/mcp"], "Bearer",
    NOW - 10, NOW + 3, NOW + 100, NOW + 10**6, 1.5, {"sub": "coder"}, {"sub": PLANNER.id}, {"sub": CODER.id},
    {"sub": CODER.id, "act": {"sub": PLANNER.id}}, ["support"], "a b", "\\u0000", "é", {"jkt": "x"},
)  # fmt: skip
HEADERS = (
    {"alg": "ES256", "kid": "k1", "typ": "at+jwt"},
    {"alg": "ES256", "kid": "k1", "typ": "JWT"},
    {"alg": "ES256", "kid": "k1"},
    {"alg": "ES256", "kid": "other", "typ": "at+jwt"},
    {"alg": "ES256", "kid": "k1", "typ": "logout+jwt"},
    {"alg": "RS256", "kid": "k1", "typ": "at+jwt"},
    {"alg": "none", "typ": "at+jwt"},
)


class Books(OwnBooks):
    def find(self, jti: str) -> Any:
        return self.entries.get(jti)


def explainer(books: Books) -> Explainer:
    rules = acme_rules()
    keys = {
        ACME: FixedKeys([jwk(ec_key())]),
        US: FixedKeys([jwk(ec_key("own"), "own-1")]),
    }
    index = index_agents((PLANNER, CODER), (rules,), US)
    return Explainer({ACME: rules}, index, US, keys, {}, books, Revoked(US))


async def agrees(token: bytes, books: Books) -> bool:
    """Whether verifier and explanation give one answer; it is whether the token is taken."""
    try:
        await build(own=books).authenticate(token, NOW)
        taken = True
    except InvalidToken:
        taken = False
    found = await explainer(books).explain(token.decode(), NOW)
    # An unregistered agent has a valid token all the same: policy answers it.
    failed = [check for check in found.checks if check.ok is not True and check.name != "agents"]
    assert taken == (not failed), found.checks
    return taken


@given(
    st.dictionaries(st.sampled_from(NAMES), st.sampled_from(VALUES), max_size=2),
    st.sampled_from(HEADERS[:1] * 6 + HEADERS),
)
@settings(max_examples=150, deadline=None)
async def test_verifier_and_explanation_agree_on_foreign_tokens(
    changes: dict[str, Any], header: dict[str, Any]
) -> None:
    await agrees(acme_token(header=header, **changes), Books())


@pytest.mark.parametrize(
    ("changes", "taken"),
    [
        ({}, True),
        ({"sub": "acme|bob"}, False),
        ({"aud": f"{US}/mcp/x"}, False),
        ({"exp": NOW + 301}, False),
        ({"exp": NOW}, False),
        ({"jti": "other"}, False),
        ({"jti": None}, False),
        ({"typ": "Refresh"}, False),
    ],
)
async def test_verifier_and_explanation_agree_on_tokens_of_ours(
    changes: dict[str, Any], taken: bool
) -> None:
    entry = coder_entry()
    books = Books(entries={entry.jti: entry})
    assert await agrees(own_token(entry, **changes), books) is taken


async def test_the_first_failure_hides_no_other() -> None:
    token = acme_token(aud="https://x.example.com", exp=NOW - 1, sub="", azp=None)
    found = await explainer(Books()).explain(token.decode(), NOW)
    failed = {check.name for check in found.checks if check.ok is False}
    assert failed == {"lifetime", "audience", "subject", "actors"}
    assert not found.proven and found.failed and not found.ok
