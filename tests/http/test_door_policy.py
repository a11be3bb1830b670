"""Refusals as callers meet them: codes, words, challenges, records; agents that lose their rights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.door import HANDSHAKE, Answered, Door, listed
from tests.door import door as open_door
from tests.harness import modern_call, modern_headers, modern_message


def error(answer: Answered) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(answer.body)["error"]
    return found


def test_a_refusal_reads_as_the_story_tells_it(door: Door) -> None:
    with door.untouched():
        answer = door.post(modern_call("other__fail", {}, 7))
    event_id = answer.headers["agentgw-event-id"]
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert json.loads(answer.body) == {
        "jsonrpc": "2.0",
        "id": 7,
        "error": {
            "code": 46001,
            "message": "other__fail is not available to planner acting for alice",
            "data": {
                "event_id": event_id,
                "reason": "not_available",
                "rule": "-",
                "missing_scopes": [],
                "hint": "ask an operator for a grant on other/fail",
                "docs": f"{door.gw.url}/errors#46001",
            },
        },
    }


def test_what_is_not_granted_looks_the_same_whether_it_exists_or_not(door: Door) -> None:
    with door.untouched():
        there, nowhere = (door.post(modern_call(f"other__{x}", {})) for x in ("slow", "none"))
    found = [error(answer) for answer in (there, nowhere)]
    for each, name in zip(found, ("slow", "none"), strict=True):
        each["data"].pop("event_id")
        text = json.dumps(each)
        assert text.count(name) == 2
        each["text"] = text.replace(name, "X")
    assert found[0]["text"] == found[1]["text"]
    assert there.headers.keys() == nowhere.headers.keys()


@pytest.mark.parametrize("path", ["/mcp", "/mcp/time"])
def test_a_granted_name_that_does_not_exist_is_an_unknown_tool(door: Door, path: str) -> None:
    with door.untouched():
        name = "none" if path.endswith("time") else "time__none"
        answer = door.post(modern_call(name, {}), path=path)
        assert (answer.status, answer.code) == (400, -32602)
        assert "Unknown tool" in error(answer)["message"]


@pytest.mark.parametrize("server", ["hidden", "nowhere"])
def test_a_name_of_a_forbidden_or_missing_server_is_not_available(door: Door, server: str) -> None:
    with door.untouched():
        answer = door.post(modern_call(f"{server}__echo", {}))
        assert (answer.status, answer.code) == (200, 46001)


def test_more_scope_is_asked_for_with_403_and_the_scope_of_the_operation(door: Door) -> None:
    with door.untouched():
        answer = door.post(modern_call("time__fail", {}))
        metadata = f"{door.gw.url}/.well-known/oauth-protected-resource/mcp"
        assert answer.status == 403
        assert answer.headers["www-authenticate"] == (
            f'Bearer error="insufficient_scope", scope="tickets.admin", resource_metadata="{metadata}"'
        )


def test_handshake_agents_are_asked_for_held_and_needed_scope_together(door: Door) -> None:
    session = door.handshake("/mcp/time")
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "fail"}}
    with door.untouched():
        answer = door.in_session(message, session)
        assert answer.status == 403
        scope = 'scope="tickets.admin tickets.read tickets.write"'
        assert scope in answer.headers["www-authenticate"]
        odd = door.gw.token(scope='tickets.read a"b \x01c d\\e é')
        answer = door.in_session(message, door.handshake("/mcp/time", odd), token=odd)
        assert answer.status == 403
        assert 'scope="tickets.admin tickets.read"' in answer.headers["www-authenticate"]


def test_enough_scope_passes(door: Door) -> None:
    token = door.gw.token(scope="tickets.admin")
    assert door.post(modern_call("time__fail", {}), token=token).status == 200


def test_a_tool_that_needs_a_human_is_refused_until_there_is_one(door: Door) -> None:
    with door.untouched():
        answer = door.post(modern_call("time__structured", {}))
        assert (answer.status, answer.code) == (200, 46002)
        assert error(answer)["data"]["reason"] == "approval_required"


def test_a_deny_row_over_arguments_wins_where_it_holds_or_cannot_be_told(door: Door) -> None:
    with door.untouched():
        for arguments in ({"seconds": -1}, {}, {"seconds": "x"}, {"Seconds": 1}):
            assert door.post(modern_call("time__slow", arguments)).code == 46001
    assert door.post(modern_call("time__slow", {"seconds": 0})).status == 200


@pytest.mark.parametrize("path", ["/mcp", "/mcp/time", "/mcp/old"])
def test_an_unregistered_agent_sees_nothing_and_may_nothing_but_is_no_stranger(
    door: Door, path: str
) -> None:
    token = door.gw.token(azp="unheard-of")
    with door.untouched():
        assert listed(door, path, token) == []
        for name in ("time__echo", "echo"):
            answer = door.post(modern_call(name, {}), path=path, token=token)
            assert (answer.status, answer.code) == (200, 46001)
            assert error(answer)["data"]["reason"] == "unknown_agent"
        for method in ("server/discover", "ping"):
            answer = door.post(modern_message(method, {}), path=path, token=token)
            assert (answer.status, answer.code) == (200, None)
            assert b"echo-tools" not in answer.body
        door.handshake(path, token)


def test_initialize_and_discover_never_carry_a_code_of_ours(door: Door) -> None:
    for params in ({}, {"protocolVersion": "2099-01-01"}, {"protocolVersion": 7}):
        message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
        answer = door.in_session(message, None, version=None)
        assert answer.code in (None, -32602)


def test_a_refusal_is_on_record_with_its_reason(door: Door) -> None:
    wanted = {
        "other__fail": "not_available",
        "time__none": "unknown_tool",
        "time__fail": "insufficient_scope",
        "time__structured": "approval_required",
    }
    for name, reason in wanted.items():
        event_id = door.post(modern_call(name, {})).headers["agentgw-event-id"]
        found = [r for r in door.gw.records() if r["event_id"] == event_id]
        assert [(r["decision"], r["reason"], r["issued"]) for r in found] == [
            ("deny", reason, None)
        ]


def test_a_disabled_agent_loses_everything_at_the_next_call(tmp_path: Path) -> None:
    with open_door(tmp_path) as door:
        token = door.gw.token()
        assert door.post(modern_call("time__echo", {}), token=token).status == 200
        message = modern_call("time__progress", {"steps": 300, "seconds": 0.1}, "open")
        message["params"]["_meta"]["progressToken"] = "p"
        body = json.dumps(message).encode()
        head = modern_headers(message, token)
        head |= {"Host": f"127.0.0.1:{door.port}", "Content-Length": str(len(body))}
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        session = door.handshake("/mcp/time", token)
        with door.connect() as sock:
            sock.sendall(f"POST /mcp HTTP/1.1\r\n{lines}\r\n".encode() + body)
            assert sock.recv(65536).startswith(b"HTTP/1.1 200")
            door.gw.config["agents"]["planner"]["disabled"] = True
            door.gw.reload()
            before = len(door.calls())
            answer = door.post(modern_call("time__echo", {}), token=token)
            assert (answer.code, error(answer)["data"]["reason"]) == (46001, "unknown_agent")
            assert listed(door, "/mcp", token) == []
            call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "echo"}}
            assert door.in_session(call, session, token=token).code == 46001
            assert len(door.calls()) == before
            rest = b""
            while not rest.endswith(b"\r\n0\r\n\r\n"):
                rest += sock.recv(65536)
            last = json.loads(rest.split(b"data: ")[-1].split(b"\r\n")[0])
            assert (last["id"], last["error"]["code"]) == ("open", 46003)
        door.gw.config["agents"]["planner"]["disabled"] = False
        door.gw.reload()
        door.honest()


def test_refusals_can_be_told_as_results(tmp_path: Path) -> None:
    with open_door(tmp_path) as door:
        door.gw.config["agents"]["planner"]["refusals"] = "tool_result"
        door.gw.reload()
        with door.untouched():
            answer = door.post(modern_call("other__fail", {}, 3))
            result = json.loads(answer.body).get("result", answer)
            assert answer.status == 200
            assert (result["isError"], result["resultType"]) == (True, "complete")
            text = result["content"][0]["text"]
            assert text.startswith("other__fail is not available to planner acting for alice")
            data = result["_meta"]["agentgw/refusal"]
            assert (data["code"], data["reason"]) == (46001, "not_available")
            assert data["event_id"] == answer.headers["agentgw-event-id"]
            # Only calls of tools have results to say it in, and scope is asked for by HTTP.
            assert door.post(modern_call("time__fail", {})).status == 403
            assert (
                door.post(modern_message("prompts/get", {"name": "x"}), path="/mcp/time").code
                == 46001
            )
        assert HANDSHAKE not in answer.body.decode()
