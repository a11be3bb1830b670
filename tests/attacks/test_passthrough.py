"""Nothing of the caller's credentials or claims reaches a tool server, and nothing of ours comes back."""

from __future__ import annotations

import json

import jwt
import pytest

from tests.door import Door
from tests.harness import modern_call

CANARY = "canary-7f3a9c"
HOSTILE = [
    "Cookie", "X-Authorization", "Proxy-Authorization", "X-Upstream-Authorization", "X-Api-Key",
    "Agentgw-Agent", "Agentgw-Event-Id", "X-Forwarded-For",
    "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-User", "X-Forwarded-Email", "X-Real-Ip",
    "Forwarded", "X-User", "X-Remote-User", "Remote-User", "X-Client-Cert", "X-Ssl-Client-S-Dn",
    "X-Consumer-Id", "X-Original-Url", "X-Rewrite-Url", "X-Http-Method-Override", "Via", "Referer",
    "From", "Mcp-Param-Secret", "Mcp-Session-Id", "Last-Event-Id", "Dpop", "Traceparent", "Baggage",
    "Connection", "Keep-Alive", "Te", "Range", "X-B3-Traceid", "Accept-Language", "User-Agent",
]  # fmt: skip
ALLOWED = {
    "host", "content-type", "accept", "user-agent", "mcp-protocol-version", "mcp-method",
    "mcp-name", "authorization", "content-length", "mcp-session-id",
}  # fmt: skip


@pytest.mark.parametrize("server", ["time", "old"])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_header_of_the_caller_never_reaches_the_server(
    door: Door, name: str, server: str
) -> None:
    message = modern_call(f"{server}__echo", {"text": "x"})
    answer = door.post(message, {name: f"Bearer {CANARY}"})
    assert answer.status == 200
    request = door.calls()[-1]
    assert CANARY not in json.dumps(request["headers"])
    assert set(request["headers"]) <= ALLOWED


def test_a_subject_token_that_is_none_goes_nowhere(door: Door) -> None:
    with door.untouched():
        message = modern_call("time__echo", {"text": "x"})
        answer = door.post(message, {"Agentgw-Subject-Token": CANARY})
        assert answer.status == 401
        assert CANARY.encode() not in answer.body
        assert CANARY not in door.gw.output


@pytest.mark.parametrize("server", ["time", "old"])
def test_the_callers_token_is_replaced_by_one_for_this_call_alone(door: Door, server: str) -> None:
    token = door.gw.token()
    door.post(modern_call(f"{server}__echo", {}), token=token)
    request = door.calls()[-1]
    assert token not in json.dumps(request)
    sent = request["headers"]["authorization"].removeprefix("Bearer ")
    claims = jwt.decode(sent, options={"verify_signature": False})
    assert claims["sub"] == "laptop|alice"
    assert claims["act"]["sub"] == f"{door.gw.url}/a2a/planner"
    assert claims["iss"] == door.gw.url
    assert claims["exp"] - claims["iat"] <= 60


def test_identity_headers_do_not_change_whom_the_server_sees(door: Door) -> None:
    forged = {"X-Forwarded-User": "root", "Agentgw-Agent": "coder", "Remote-User": "root"}
    door.post(modern_call("time__echo", {}), forged)
    sent = door.calls()[-1]["headers"]["authorization"].removeprefix("Bearer ")
    assert jwt.decode(sent, options={"verify_signature": False})["sub"] == "laptop|alice"


def test_every_request_that_reached_a_server_carried_a_token_of_ours_used_once(door: Door) -> None:
    door.honest()
    tokens = [request["headers"]["authorization"] for request in door.seen()]
    claims = [
        jwt.decode(token.removeprefix("Bearer "), options={"verify_signature": False})
        for token in tokens
    ]
    assert {claim["iss"] for claim in claims} == {door.gw.url}
    assert len({claim["jti"] for claim in claims}) == len(claims)


@pytest.mark.parametrize("path", ["/mcp", "/mcp/time", "/mcp/other"])
def test_a_per_call_token_is_no_credential_at_our_door(door: Door, path: str) -> None:
    door.honest()
    stolen = door.calls()[-1]["headers"]["authorization"].removeprefix("Bearer ")
    with door.untouched():
        answer = door.post(modern_call("time__echo", {}), path=path, token=stolen)
        assert answer.status == 401
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]


def test_only_headers_of_our_own_making_reach_the_agent(door: Door) -> None:
    for message in (modern_call("time__echo", {}), modern_call("old__echo", {})):
        answer = door.post(message)
        assert set(answer.headers) == {
            "content-type", "content-length", "agentgw-event-id", "agentgw-chain-assurance",
        }  # fmt: skip
        assert answer.headers["agentgw-chain-assurance"] == "token"
