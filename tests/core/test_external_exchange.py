"""What is asked of another authorization server."""

from __future__ import annotations

import dataclasses

import pytest

from agentgw.core import external_exchange as rule
from agentgw.core.external_exchange import ExternalRules
from agentgw.core.principal import Caller, Hop, Inbound, Subject
from agentgw.errors import UpstreamFailed

US = "https://gw.example.com"
IDP = "https://idp.example.com"
THEIRS = "https://as.other.example"
PLANNER, CODER = f"{US}/a2a/planner", f"{US}/a2a/coder"
NOW = 1_800_000_000

RULES = ExternalRules(
    server="tickets",
    name="acme",
    issuer=IDP,
    client_id="gateway",
    first_issuer=IDP,
    grant="token-exchange",
    subject="caller",
    audience="tickets",
    public_url=US,
    asked_audience="tickets",
    scope="tickets.use",
    users="acme",
    agents={PLANNER: frozenset({"planner"})},
)
TWO_SERVERS = dataclasses.replace(
    RULES, name="other", issuer=THEIRS, resource="https://tickets.example/mcp"
)


def caller(*agents: str, iss: str = IDP, **changes: object) -> Caller:
    chain = tuple(Hop(agent, agent.rpartition("/")[2], "exchange") for agent in agents)
    return Caller(
        subject=Subject("acme", "alice", "acme|alice"),
        chain=chain or (Hop(PLANNER, "planner", "client-auth"),),
        scopes=frozenset(),
        resources=frozenset(),
        exp=NOW + 300,
        inbound=Inbound(iss, "j1", "sha-256:x"),
        presenter=PLANNER,
        **changes,  # type: ignore[arg-type]
    )


def test_a_token_exchange_asks_for_one_audience_and_the_scope() -> None:
    assert rule.first_request(RULES, "T", "tickets.use") == {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": "T",
        "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "requested_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "audience": "tickets",
        "scope": "tickets.use",
    }


def test_on_behalf_of_sends_the_token_as_assertion_and_no_audience() -> None:
    rules = dataclasses.replace(RULES, grant="on-behalf-of", resource="https://t.example")
    assert rule.first_request(rules, "T", "api://t/.default") == {
        "grant_type": rule.JWT_BEARER,
        "assertion": "T",
        "requested_token_use": "on_behalf_of",
        "scope": "api://t/.default",
    }


def test_an_identity_assertion_is_asked_for_the_other_server_and_redeemed_there() -> None:
    rules = dataclasses.replace(TWO_SERVERS, grant="id-jag")
    first = rule.first_request(rules, "T", "tickets.use")
    assert first["requested_token_type"] == rule.ID_JAG
    assert (first["audience"], first["resource"]) == (THEIRS, "https://tickets.example/mcp")
    second = {"grant_type": rule.JWT_BEARER, "assertion": "G", "scope": "tickets.use"}
    assert rule.second_request(rules, "G", "tickets.use") == second


def test_chaining_asks_for_a_jwt_and_names_the_target_at_the_second_server() -> None:
    rules = dataclasses.replace(TWO_SERVERS, grant="identity-chaining")
    assert rule.first_request(rules, "T", None)["requested_token_type"] == rule.JWT
    second = rule.second_request(rules, "G", None)
    assert (second["audience"], second["resource"]) == ("tickets", "https://tickets.example/mcp")


def test_the_callers_token_is_shown_to_its_own_issuer_only() -> None:
    rule.check_subject_token(RULES, caller())
    for issuer in (US, THEIRS, IDP + "/"):
        with pytest.raises(UpstreamFailed, match="subject: gateway"):
            rule.check_subject_token(RULES, caller(iss=issuer))


def test_our_grant_is_for_one_server_and_lives_no_longer_than_the_caller() -> None:
    rules = dataclasses.replace(RULES, subject="gateway")
    brief = dataclasses.replace(caller(CODER, PLANNER), exp=NOW + 20)
    claims = rule.grant_claims(rules, brief, "s", now=NOW, jti="j", txn="t")
    assert (claims["iss"], claims["aud"], claims["sub"]) == (US, IDP, "acme|alice")
    assert (claims["exp"], claims["jti"], claims["scope"]) == (NOW + 20, "j", "s")
    assert claims["act"]["sub"] == CODER and claims["act"]["act"]["sub"] == PLANNER
    longer = rule.grant_claims(rules, caller(), None, now=NOW, jti="j", txn="t")
    assert longer["exp"] == NOW + rule.GRANT_LIFE and "scope" not in longer


def test_users_are_expected_by_the_name_their_own_issuer_gave_them() -> None:
    assert rule.expected(RULES, caller(), "s").subjects == frozenset({"alice"})
    stranger = dataclasses.replace(RULES, users=None)
    assert rule.expected(stranger, caller(), "s").subjects == frozenset()
    ours = dataclasses.replace(RULES, subject="gateway", users=None)
    assert rule.expected(ours, caller(), "s").subjects == frozenset({"acme|alice"})
    by_oid = dataclasses.replace(RULES, subject_claim="oid")
    assert rule.expected(by_oid, caller(claims={"oid": "o-1"}), "s").subjects == frozenset({"o-1"})
    assert rule.expected(by_oid, caller(claims={}), "s").subjects == frozenset()


def test_a_tools_own_scope_is_asked_for_before_the_servers() -> None:
    assert rule.asked_scope(RULES, "tickets.read") == "tickets.read"
    assert rule.asked_scope(RULES, None) == "tickets.use"
