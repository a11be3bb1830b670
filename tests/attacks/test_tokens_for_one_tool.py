"""A token for one tool used for anything else; each attempt is refused, recorded, and reaches nobody."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from agentgw.core.authorization_details import TOOL_DETAILS
from agentgw.core.exchange_request import ACCESS_TOKEN, GRANT_TYPE
from tests.door import HANDSHAKE, Door, door, listed
from tests.harness import modern_call, modern_message


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with door(tmp_path_factory.mktemp("one-tool")) as running:
        yield running


def details(gate: Door, server: str = "time", tool: str = "echo", **more: Any) -> str:
    location = f"{gate.gw.url}/mcp/{server}"
    item = {
        "type": TOOL_DETAILS,
        "locations": [location],
        "actions": ["tools/call"],
        "identifier": tool,
    }
    return json.dumps([item | more])


def ask(gate: Door, subject: str, asked: str | None, resource: str = "/mcp") -> httpx2.Response:
    form = {
        "grant_type": GRANT_TYPE,
        "subject_token": subject,
        "subject_token_type": ACCESS_TOKEN,
        "resource": gate.gw.url + resource,
    } | ({} if asked is None else {"authorization_details": asked})
    auth = ("planner", "planner-secret-for-tests")
    return httpx2.post(f"{gate.gw.url}/oauth/token", data=form, auth=auth, trust_env=False)


def token(gate: Door, asked: str | None, resource: str = "/mcp", subject: str | None = None) -> str:
    answer = ask(gate, subject or gate.gw.token(), asked, resource)
    assert answer.status_code == 200, answer.text
    made: str = answer.json()["access_token"]
    gate.issuer.issued.append(made)
    return made


def at_old(gate: Door) -> list[dict[str, Any]]:
    """What reached the server `old`, whatever it was."""
    return [request for request in gate.seen() if request["query"].get("as") == "old"]


def decisions(gate: Door) -> list[dict[str, Any]]:
    return [record for record in gate.gw.records() if record["phase"] == "decision"]


def test_the_one_tool_can_be_called_on_both_paths(gate: Door) -> None:
    one = token(gate, details(gate))
    for name, path in (("time__echo", "/mcp"), ("echo", "/mcp/time")):
        answer = gate.post(modern_call(name, {"text": "mine"}), path=path, token=one)
        assert answer.status == 200 and b"mine" in answer.body


def test_lists_show_the_one_tool_only(gate: Door) -> None:
    exact = token(gate, details(gate, arguments={"text": "x"}))
    assert listed(gate, token=exact) == ["time__echo"]
    assert listed(gate, "/mcp/time", exact) == ["echo"]
    assert listed(gate, "/mcp/other", exact) == []


def test_another_tool_server_or_kind_is_refused_with_a_record(gate: Door) -> None:
    one = token(gate, details(gate))
    attempts = [
        (modern_call("time__progress", {}), "/mcp"),
        (modern_call("other__echo", {"text": "x"}), "/mcp"),
        (modern_call("old__echo", {"text": "x"}), "/mcp"),
        (modern_call("echo", {"text": "x"}), "/mcp/other"),
        (modern_message("resources/read", {"uri": "x:y"}), "/mcp/time"),
        (modern_message("prompts/get", {"name": "echo"}), "/mcp/time"),
    ]
    before = len(decisions(gate))
    with gate.untouched():
        for message, path in attempts:
            answer = gate.post(message, path=path, token=one)
            assert (answer.status, answer.code) == (200, 46001), (message, answer)
    refused = [record for record in decisions(gate)[before:] if record["decision"] == "deny"]
    assert [record["rule"] for record in refused] == ["authorization_details"] * len(attempts)


def test_it_opens_no_session_at_another_server_and_sends_it_nothing(gate: Door) -> None:
    mine = gate.handshake("/mcp/old")
    one = token(gate, details(gate))
    before = len(at_old(gate))
    assert before, "an honest session is the server's own"
    session = gate.handshake("/mcp/old", one)
    notice = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    for of in (session, mine):
        gate.in_session(notice, of, path="/mcp/old", token=one)
    assert len(at_old(gate)) == before


def test_it_opens_no_stream_which_tells_of_more_than_one_call(gate: Door) -> None:
    one = token(gate, details(gate, "old"))
    session = gate.handshake("/mcp/old", one)
    echo = {"jsonrpc": "2.0", "id": 3, "method": "tools/call",
            "params": {"name": "echo", "arguments": {"text": "mine"}}}  # fmt: skip
    assert b"mine" in gate.in_session(echo, session, path="/mcp/old", token=one).body
    headers = {
        "Authorization": f"Bearer {one}", "Accept": "text/event-stream", "Mcp-Session-Id": session,
        "MCP-Protocol-Version": HANDSHAKE,
    }  # fmt: skip
    with gate.untouched(), gate.gw.client() as client:
        assert client.get("/mcp/old", headers=headers).status_code == 403


def test_other_arguments_than_the_given_ones_are_refused(gate: Door) -> None:
    exact = token(gate, details(gate, arguments={"text": "this"}))
    for arguments in ({"text": "that"}, {}, {"text": "this", "more": 1}, {"Text": "this"}):
        with gate.untouched():
            answer = gate.post(modern_call("time__echo", arguments), token=exact)
            assert (answer.status, answer.code) == (200, 46001)
            assert b"authorization_details" in answer.body
    assert b"this" in gate.post(modern_call("time__echo", {"text": "this"}), token=exact).body


def test_a_token_for_one_tool_is_never_exchanged_for_more(gate: Door) -> None:
    exact = token(gate, details(gate, arguments={"text": "x"}))
    for wider in (
        details(gate),
        details(gate, arguments={"text": "y"}),
        details(gate, tool="progress", arguments={"text": "x"}),
        details(gate, server="other", arguments={"text": "x"}),
    ):
        answer = ask(gate, exact, wider)
        assert answer.json()["error"] == "invalid_authorization_details", answer.text
    for asked in (None, details(gate, arguments={"text": "x"})):
        again = token(gate, asked, subject=exact)
        with gate.untouched():
            assert gate.post(modern_call("time__echo", {"text": "y"}), token=again).code == 46001
    narrower = token(
        gate, details(gate, arguments={"text": "x"}), subject=token(gate, details(gate))
    )
    assert gate.post(modern_call("time__echo", {"text": "y"}), token=narrower).code == 46001


def test_a_location_that_the_target_does_not_include(gate: Door) -> None:
    for server, resource in (("time", "/mcp/other"), ("nowhere", "/mcp"), ("", "/mcp")):
        answer = ask(gate, gate.gw.token(), details(gate, server), resource)
        assert answer.json()["error"] == "invalid_authorization_details", answer.text
    for location in (f"{gate.gw.url}/mcp", "https://elsewhere.example.com/mcp/time"):
        answer = ask(gate, gate.gw.token(), details(gate, locations=[location]))
        assert answer.json()["error"] == "invalid_authorization_details", answer.text
    one = token(gate, details(gate))
    answer = ask(gate, one, None, "/mcp/other")
    assert answer.json()["error"] == "invalid_authorization_details", answer.text


def test_the_answer_says_what_was_granted(gate: Door) -> None:
    answer = ask(gate, gate.gw.token(), details(gate, arguments={"text": "x"})).json()
    [granted] = answer["authorization_details"]
    assert granted.keys() == {"type", "locations", "actions", "identifier", "arguments_digest"}
    assert "refresh_token" not in answer


def test_an_issuers_own_details_of_our_type_bind_as_well(gate: Door) -> None:
    bound = gate.gw.token(authorization_details=json.loads(details(gate)))
    assert listed(gate, token=bound) == ["time__echo"]
    garbled = gate.gw.token(authorization_details=[{"type": TOOL_DETAILS}])
    assert gate.post(modern_call("time__echo", {"text": "x"}), token=garbled).status == 401
    other = gate.gw.token(authorization_details=[{"type": "payment"}])
    assert gate.post(modern_call("time__echo", {"text": "x"}), token=other).status == 200
