from __future__ import annotations

from typing import Any

import pytest

from agentgw.core.claims import IssuerRules, subject_of
from agentgw.core.client_credentials import (
    ClientCredentialsRequest,
    issue_for_itself,
    parse_client_credentials,
)
from agentgw.core.exchange_rules import ExchangeAgent, ExchangeRules
from agentgw.core.possession import Binding, Presented
from agentgw.core.principal import Hop, Subject
from agentgw.errors import InvalidToken, OAuthError

GATEWAY = "https://gw.example.com"
MCP = f"{GATEWAY}/mcp"
ID = f"{GATEWAY}/a2a/nightly"
RULES = ExchangeRules(
    GATEWAY,
    frozenset({MCP, f"{MCP}/tickets"}),
    {
        "nightly": ExchangeAgent("nightly", ID, own_scopes=frozenset({"read", "write"})),
        "bare": ExchangeAgent("bare", f"{GATEWAY}/a2a/bare", own_scopes=frozenset()),
        "planner": ExchangeAgent("planner", f"{GATEWAY}/a2a/planner"),
        "off": ExchangeAgent("off", f"{GATEWAY}/a2a/off", disabled=True, own_scopes=frozenset()),
    },
    max_life=300,
)


def ask(agent: str = "nightly", **form: str) -> Any:
    request = parse_client_credentials({"grant_type": "client_credentials", **form})
    return issue_for_itself(request, agent, RULES, now=1000, jti="j", txn="t", evidence="mtls")


def refusal(agent: str = "nightly", **form: str) -> str:
    with pytest.raises(OAuthError) as caught:
        ask(agent, **form)
    return caught.value.error


def test_the_agent_is_subject_and_actor_in_one() -> None:
    made = ask(scope="read", resource=f"{MCP}/tickets")
    assert made.claims == {
        "iss": GATEWAY,
        "client_id": GATEWAY,
        "aud": f"{MCP}/tickets",
        "sub": ID,
        "act": {"iss": GATEWAY, "sub": ID, "sub_profile": "ai_agent"},
        "scope": "read",
        "iat": 1000,
        "nbf": 1000,
        "exp": 1300,
        "jti": "j",
        "txn": "t",
    }
    # RFC 6749 section 4.4.3: no refresh token; and no issued_token_type, which is RFC 8693's.
    assert made.answer == {"token_type": "Bearer", "expires_in": 300, "scope": "read"}
    assert made.issued.subject == Subject(GATEWAY, ID, ID, agent="nightly")
    assert made.issued.chain == (Hop(ID, "nightly", "mtls"),)
    assert (made.issued.parent, made.issued.kind) == (None, "gateway")


def test_all_scopes_and_the_union_of_servers_where_none_is_named() -> None:
    made = ask()
    assert made.issued.scopes == {"read", "write"} and made.issued.audience == MCP
    assert "scope" not in ask("bare").answer


def test_nothing_beyond_what_is_configured() -> None:
    assert refusal(scope="read admin") == "invalid_scope"
    assert refusal("bare", scope="read") == "invalid_scope"
    assert refusal(resource=f"{MCP}/nowhere") == "invalid_target"
    assert refusal(audience=f"{GATEWAY}/a2a/planner") == "invalid_target"
    assert refusal(audience=ID) == "invalid_target"
    assert refusal(resource=MCP, audience=f"{MCP}/tickets") == "invalid_target"


def test_only_agents_that_are_switched_on() -> None:
    for agent in ("planner", "off", "nobody"):
        assert refusal(agent) == "unauthorized_client"


@pytest.mark.parametrize("name", ["subject_token", "actor_token", "authorization_details"])
def test_what_belongs_to_other_grants_is_refused(name: str) -> None:
    assert refusal(**{name: "x"}) == "invalid_request"


def test_no_issuer_can_name_its_user_like_an_agent() -> None:
    rules = IssuerRules("acme", "https://idp.example", {}, subject="plain")
    for sub in ("agent:nightly", ID):
        with pytest.raises(InvalidToken):
            subject_of({"sub": sub}, rules, GATEWAY)


def test_a_request_is_a_plain_value() -> None:
    assert parse_client_credentials({}) == ClientCredentialsRequest(None, None)


def test_its_token_is_bound_to_what_it_proved() -> None:
    request = parse_client_credentials({"grant_type": "client_credentials"})
    agents = {"nightly": ExchangeAgent("nightly", ID, own_scopes=frozenset(), require="dpop")}
    rules = ExchangeRules(GATEWAY, frozenset({MCP}), agents)
    with pytest.raises(OAuthError, match="DPoP proof"):
        issue_for_itself(request, "nightly", rules, now=1000, jti="j", txn="t")
    proven = Presented(jkt="k")
    made = issue_for_itself(request, "nightly", rules, now=1000, jti="j", txn="t", presented=proven)
    assert (made.claims["cnf"], made.answer["token_type"]) == ({"jkt": "k"}, "DPoP")
    assert made.issued.binding == Binding(jkt="k")
