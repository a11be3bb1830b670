from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgw.core.authorization_details import (
    TOOL_DETAILS,
    OneTool,
    arguments_digest,
    details_claim,
    details_of,
    parse_details,
)
from agentgw.errors import InvalidToken, OAuthError

TICKETS = "https://gw.example.com/mcp/tickets"
ASKED: dict[str, Any] = {
    "type": TOOL_DETAILS,
    "locations": [TICKETS],
    "actions": ["tools/call"],
    "identifier": "close_ticket",
}
ARGUMENTS = {"id": 42, "reason": "solved"}
ANY = OneTool(TICKETS, "close_ticket")
EXACT = OneTool(TICKETS, "close_ticket", arguments_digest(ARGUMENTS))


def test_one_tool_is_asked_for_with_any_arguments_or_with_given_ones() -> None:
    assert parse_details(json.dumps([ASKED])) == ANY
    assert parse_details(json.dumps([ASKED | {"arguments": ARGUMENTS}])) == EXACT
    digested = ASKED | {"arguments_digest": EXACT.arguments_digest}
    assert parse_details(json.dumps([digested])) == EXACT
    assert parse_details(json.dumps([ASKED | {"arguments": {}}])).arguments_digest is not None


REFUSED: dict[str, Any] = {
    "nothing": [],
    "an object": ASKED,
    "two": [ASKED, ASKED],
    "text": ["close_ticket"],
    "null": None,
    "another type": [ASKED | {"type": "urn:agentgw:mcp-call:1"}],
    "no type": [{name: ASKED[name] for name in ("locations", "actions", "identifier")}],
    "an unknown member": [ASKED | {"privileges": ["admin"]}],
    "no location": [ASKED | {"locations": []}],
    "two locations": [ASKED | {"locations": [TICKETS, TICKETS]}],
    "a location that is text": [ASKED | {"locations": TICKETS}],
    "an empty location": [ASKED | {"locations": [""]}],
    "no actions": [ASKED | {"actions": []}],
    "more actions": [ASKED | {"actions": ["tools/call", "resources/read"]}],
    "another action": [ASKED | {"actions": ["tools/list"]}],
    "actions that are text": [ASKED | {"actions": "tools/call"}],
    "no tool": [ASKED | {"identifier": None}],
    "an empty tool": [ASKED | {"identifier": ""}],
    "a tool with a line feed": [ASKED | {"identifier": "a\nb"}],
    "an endless tool": [ASKED | {"identifier": "a" * 256}],
    "arguments that are a list": [ASKED | {"arguments": []}],
    "arguments that are null": [ASKED | {"arguments": None}],
    "arguments twice over": [ASKED | {"arguments": {}, "arguments_digest": EXACT.arguments_digest}],
    "a digest that is none": [ASKED | {"arguments_digest": "sha-256:x"}],
    "a digest of another kind": [ASKED | {"arguments_digest": "md5:" + "A" * 43}],
    "a digest that is a number": [ASKED | {"arguments_digest": 7}],
    "an integer without a form": [ASKED | {"arguments": {"id": 2**60}}],
    "too much": [ASKED | {"arguments": {"text": "a" * 17_000}}],
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_what_is_not_exactly_one_tool(case: str) -> None:
    with pytest.raises(OAuthError) as caught:
        parse_details(json.dumps(REFUSED[case]))
    assert caught.value.error == "invalid_authorization_details"


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "[", '[{"type":1,"type":2}]', "[NaN]", '[{"arguments":{"a":1e999}}]',
        "[" * 9000, '[{"a":' * 2000, "1" * 5000, '[{"type":"\\ud800"}]',
    ],
)  # fmt: skip
def test_refuses_what_is_not_strict_json(text: str) -> None:
    with pytest.raises(OAuthError) as caught:
        parse_details(text)
    assert caught.value.error == "invalid_authorization_details"


@pytest.mark.parametrize("one", [ANY, EXACT])
def test_a_claim_says_what_was_asked_and_is_read_back(one: OneTool) -> None:
    assert details_of({"authorization_details": details_claim(one)}) == one


def test_a_token_without_our_type_is_for_no_single_tool() -> None:
    for value in (None, [], [{"type": "payment"}]):
        assert details_of({"authorization_details": value}) is None
    assert details_of({}) is None


def test_a_limit_that_cannot_be_read_is_not_taken_for_none() -> None:
    values: tuple[Any, ...] = (
        "x", {}, [1], [ASKED, ASKED], [ASKED | {"actions": []}], [ASKED | {"more": 1}],
        [ASKED | {"arguments": {}}],
    )  # fmt: skip
    for value in values:
        with pytest.raises(InvalidToken):
            details_of({"authorization_details": value})


def test_admits_that_tool_of_that_server_with_those_arguments_only() -> None:
    assert ANY.admits(TICKETS, "close_ticket", {"id": 1})
    assert EXACT.admits(TICKETS, "close_ticket", {"reason": "solved", "id": 42.0})
    assert EXACT.admits(TICKETS, "close_ticket", None)
    for location, tool, arguments in (
        (f"{TICKETS}2", "close_ticket", ARGUMENTS),
        (TICKETS, "close_tickets", ARGUMENTS),
        (TICKETS, "close_ticket", {}),
        (TICKETS, "close_ticket", {**ARGUMENTS, "more": None}),
        (TICKETS, "close_ticket", {**ARGUMENTS, "id": "42"}),
        (TICKETS, "close_ticket", {**ARGUMENTS, "id": 2**60}),
    ):
        assert not EXACT.admits(location, tool, arguments)


TOOLS = st.builds(
    OneTool,
    st.sampled_from([TICKETS, f"{TICKETS}2"]),
    st.sampled_from("ab"),
    st.sampled_from([None, arguments_digest({"x": 1}), arguments_digest({"x": 2})]),
)
CALLS = st.tuples(
    st.sampled_from([TICKETS, f"{TICKETS}2"]),
    st.sampled_from("ab"),
    st.sampled_from([{"x": 1}, {"x": 2}, {}]),
)


@given(TOOLS, TOOLS, CALLS)
def test_what_is_included_admits_nothing_more(
    outer: OneTool, inner: OneTool, call: tuple[str, str, dict[str, int]]
) -> None:
    if outer.includes(inner) and inner.admits(*call):
        assert outer.admits(*call)
