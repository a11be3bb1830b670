from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agentgw.core.call_token import (
    call_claims,
    call_parts,
    identifier_of,
    params_digest,
    tool_digest,
)
from agentgw.core.canonical import NotCanonical
from agentgw.core.principal import Caller, Hop, Inbound, Subject

GATEWAY = "https://gw.example.com"
TICKETS = "https://tickets.example.com/mcp"
STORY_PARAMS = "sha-256:UqtvRHT7dED66ZKDi6Uju9v0BfJ_zCUiRboIHAPklro"
STORY_TOOL = "sha-256:tbXUFP2tTa4BZmZuDVtXTVwlHx5R8vyP5p0QCeyX32g"
CODER = Caller(
    subject=Subject("acme", "alice", "acme|alice"),
    chain=(
        Hop(f"{GATEWAY}/a2a/coder", "coder", "exchange"),
        Hop(f"{GATEWAY}/a2a/planner", "planner", "client-auth"),
    ),
    scopes=frozenset({"tickets.write"}),
    resources=frozenset({f"{GATEWAY}/mcp"}),
    exp=1795400300,
    inbound=Inbound(GATEWAY, "j-coder", "sha-256:x"),
    presenter=f"{GATEWAY}/a2a/coder",
    txn="t-01JD9YQK6T3E8V",
)
CALL: dict[str, Any] = {
    "issuer": GATEWAY,
    "caller": CODER,
    "aud": TICKETS,
    "method": "tools/call",
    "identifier": "close_ticket",
    "scope": "tickets.write",
    "tool_digest": STORY_TOOL,
    "params_digest": STORY_PARAMS,
    "may_act": None,
    "life": 60,
    "now": 1795400005,
    "jti": "j-call-9f2",
    "txn": "t-new",
}
STORY = {
    "iss": GATEWAY,
    "client_id": GATEWAY,
    "aud": TICKETS,
    "sub": "acme|alice",
    "act": {
        "iss": GATEWAY,
        "sub": f"{GATEWAY}/a2a/coder",
        "sub_profile": "ai_agent",
        "act": {"iss": GATEWAY, "sub": f"{GATEWAY}/a2a/planner", "sub_profile": "ai_agent"},
    },
    "scope": "tickets.write",
    "iat": 1795400005,
    "nbf": 1795400005,
    "exp": 1795400065,
    "jti": "j-call-9f2",
    "txn": "t-01JD9YQK6T3E8V",
    "authorization_details": [
        {
            "type": "urn:agentgw:mcp-call:1",
            "locations": [TICKETS],
            "actions": ["tools/call"],
            "identifier": "close_ticket",
            "tool_digest": STORY_TOOL,
            "params_digest": STORY_PARAMS,
            "evidence": "exchange",
            "max_uses": 1,
        }
    ],
}


def test_the_claims_are_those_of_the_story_in_its_order() -> None:
    claims = call_claims(**CALL)
    assert claims == STORY
    assert list(claims) == list(STORY)
    details = claims["authorization_details"][0]
    assert list(details) == list(STORY["authorization_details"][0])  # type: ignore[index]


def test_the_params_digest_is_that_of_the_story() -> None:
    params = {
        "name": "close_ticket",
        "arguments": {"id": 42, "reason": "solved"},
        "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"},
    }
    assert params_digest(TICKETS, "tools/call", params) == STORY_PARAMS
    assert "_meta" in params


def test_only_the_outer_meta_is_left_out_of_the_digest() -> None:
    inner = {"name": "x", "arguments": {"_meta": 1}}
    assert params_digest(TICKETS, "m", inner) != params_digest(
        TICKETS, "m", {"name": "x", "arguments": {}}
    )


def test_absent_params_count_as_empty_ones() -> None:
    assert params_digest(TICKETS, "ping", None) == params_digest(TICKETS, "ping", {"_meta": {}})


@pytest.mark.parametrize("change", [("aud", 0), ("method", 1), ("params", 2)])
def test_the_digest_covers_each_of_its_parts(change: tuple[str, int]) -> None:
    parts: list[Any] = [TICKETS, "tools/call", {"name": "x"}]
    parts[change[1]] = {"name": "y"} if change[0] == "params" else "other"
    assert params_digest(*parts) != params_digest(TICKETS, "tools/call", {"name": "x"})


@pytest.mark.parametrize("value", [2**53, float("nan"), float("inf"), "\ud800"])
def test_refuses_params_that_have_no_canonical_form(value: object) -> None:
    with pytest.raises(NotCanonical):
        params_digest(TICKETS, "tools/call", {"arguments": {"x": value}})


def test_the_tool_digest_ignores_meta_only() -> None:
    tool = {"name": "x", "inputSchema": {"type": "object"}}
    assert tool_digest(tool | {"_meta": {"seen": 1}}) == tool_digest(tool)
    assert tool_digest(tool | {"description": "new"}) != tool_digest(tool)


def test_never_outlives_the_token_of_its_caller() -> None:
    caller = replace(CODER, exp=1795400012)
    assert call_claims(**CALL | {"caller": caller})["exp"] == 1795400012


def test_takes_a_new_txn_only_where_the_caller_has_none() -> None:
    caller = replace(CODER, txn=None)
    assert call_claims(**CALL | {"caller": caller})["txn"] == "t-new"


def test_the_gateway_for_itself_is_subject_and_client_and_has_no_act() -> None:
    changes = {"caller": None, "method": "tools/list", "identifier": None, "tool_digest": None}
    claims = call_claims(**CALL | changes | {"scope": None})
    assert claims["sub"] == claims["client_id"] == claims["iss"] == GATEWAY
    assert "act" not in claims and "scope" not in claims
    assert claims["authorization_details"] == [
        {
            "type": "urn:agentgw:mcp-call:1",
            "locations": [TICKETS],
            "actions": ["tools/list"],
            "params_digest": STORY_PARAMS,
            "max_uses": 1,
        }
    ]


def test_a_server_that_is_an_agent_may_act() -> None:
    claims = call_claims(**CALL | {"may_act": f"{GATEWAY}/a2a/coder"})
    assert claims["may_act"] == {"iss": GATEWAY, "sub": f"{GATEWAY}/a2a/coder"}
    assert list(claims).index("may_act") == list(claims).index("act") + 1


def test_carries_how_the_user_signed_in_where_it_is_known() -> None:
    caller = replace(CODER, acr="phr", auth_time=1795390000)
    claims = call_claims(**CALL | {"caller": caller})
    assert (claims["acr"], claims["auth_time"]) == ("phr", 1795390000)


def test_a_caller_without_an_agent_gets_no_token() -> None:
    with pytest.raises(ValueError, match="agent"):
        call_claims(**CALL | {"caller": replace(CODER, chain=())})


@pytest.mark.parametrize(
    ("method", "params", "identifier"),
    [
        ("tools/call", {"name": "x", "uri": "y"}, "x"),
        ("prompts/get", {"name": "p"}, "p"),
        ("resources/read", {"uri": "file:///a"}, "file:///a"),
        ("resources/subscribe", {"uri": "file:///a"}, "file:///a"),
        ("tasks/get", {"taskId": "t"}, "t"),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": "p"}}, "p"),
        ("completion/complete", {"ref": {"type": "ref/resource", "uri": "u"}}, "u"),
        ("completion/complete", {"ref": "p"}, None),
        ("tools/call", {"name": 7}, None),
        ("tools/list", {"name": "x"}, None),
        ("tools/list", None, None),
    ],
)
def test_names_what_a_message_is_about(method: str, params: Any, identifier: str | None) -> None:
    assert identifier_of(method, params) == identifier


def test_a_posted_response_is_bound_by_its_id_and_result() -> None:
    message = {"jsonrpc": "2.0", "id": 3, "result": {"action": "accept"}}
    assert call_parts(message) == ("response", None, {"id": 3, "result": {"action": "accept"}})
    request = {"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": {"name": "x"}}
    assert call_parts(request) == ("tools/call", "x", {"name": "x"})
