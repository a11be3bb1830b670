"""An agent behind a tool server, and everybody else who would like to go on with a per-call token."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx2
import jwt
import pytest

from agentgw.core.exchange_request import ACCESS_TOKEN, GRANT_TYPE
from agentgw.verify import CallVerifier
from tests.door import Door, door, listed
from tests.harness import modern_call, modern_message


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """coder is behind `time`, whose tool echo needs tickets.read; planner may hand to nobody."""
    with door(tmp_path_factory.mktemp("behind")) as running:
        config = running.gw.config
        config["servers"]["time"] |= {"agent": "coder"}
        config["servers"]["time"]["tools"] |= {"echo": {"scope": "tickets.read"}}
        config["agents"]["planner"]["may_hand_to"] = []
        config["grants"].append({"agents": ["coder"], "tools": ["other/*", "time/*"]})
        config["sts"] = {"receipts": "actor-receipts-00"}
        running.gw.reload()
        yield running


def per_call_token(gate: Door, tool: str = "echo", **claims: object) -> str:
    """Let planner call a tool; the token that the server got."""
    caller = gate.gw.token(**{"scope": "tickets.read tickets.write"} | claims)
    answer = gate.post(modern_call(f"time__{tool}", {"text": "x"}), token=caller)
    assert answer.status == 200 and answer.code is None, answer
    bearer: str = gate.calls()[-1]["headers"]["authorization"]
    return bearer.removeprefix("Bearer ")


def ask(
    gate: Door, subject: str, agent: str = "coder", target: str = "/mcp", **more: str
) -> httpx2.Response:
    form = {
        "grant_type": GRANT_TYPE,
        "subject_token": subject,
        "subject_token_type": ACCESS_TOKEN,
        "audience": gate.gw.url + target,
    }
    auth = (agent, f"{agent}-secret-for-tests")
    return httpx2.post(f"{gate.gw.url}/oauth/token", data=form | more, auth=auth, trust_env=False)


def assert_refused(answer: httpx2.Response, error: str, words: str) -> None:
    assert (answer.status_code, answer.json()["error"]) == (400, error), answer.text
    assert words in answer.json()["error_description"], answer.text


def claims_of(token: str) -> dict[str, object]:
    found: dict[str, object] = jwt.decode(token, options={"verify_signature": False})
    return found


def test_the_agent_goes_on_for_the_user_with_the_tools_scope_and_life(gate: Door) -> None:
    given = per_call_token(gate)
    answer = ask(gate, given)
    assert answer.status_code == 200, answer.text
    made = answer.json()["access_token"]
    gate.issuer.issued.append(made)
    old, new = claims_of(given), claims_of(made)
    assert new["act"] == {
        "iss": gate.gw.url,
        "sub": f"{gate.gw.url}/a2a/coder",
        "sub_profile": "ai_agent",
        "act": old["act"],
    }
    assert (new["sub"], new["txn"], new["scope"]) == (old["sub"], old["txn"], "tickets.read")
    assert new["exp"] <= old["exp"]  # type: ignore[operator]
    assert new["actor_receipts_complete"] is False  # planner came with its issuer's token
    assert "may_act" not in new and "authorization_details" not in new
    answered = gate.post(modern_call("other__echo", {"text": "onwards"}), token=made)
    assert b"onwards" in answered.body
    assert "other__echo" in listed(gate, token=made)


@pytest.mark.anyio
async def test_what_the_agent_calls_next_carries_a_receipt_for_each_hop_we_admitted(
    gate: Door,
) -> None:
    planners = exchange_as_planner(gate, "/mcp")
    answer = gate.post(modern_call("time__echo", {"text": "x"}), token=planners)
    assert answer.code is None, answer
    given = gate.calls()[-1]["headers"]["authorization"].removeprefix("Bearer ")
    made = ask(gate, given).json()["access_token"]
    gate.issuer.issued.append(made)
    assert gate.post(modern_call("other__echo", {"text": "y"}), token=made).code is None
    call = gate.calls()[-1]
    bearer = call["headers"]["authorization"].removeprefix("Bearer ")
    verifier = CallVerifier(gate.gw.url, str(claims_of(bearer)["aud"]), require_receipts=True)
    try:
        verified = await verifier.verify(bearer, call["body"].encode())
    finally:
        await verifier.close()
    assert verified.prior_agents == (f"{gate.gw.url}/a2a/planner",)


def test_the_token_serves_once(gate: Door) -> None:
    given = per_call_token(gate)
    assert ask(gate, given).status_code == 200
    for target in ("/mcp", "/mcp/other"):
        assert_refused(ask(gate, given, target=target), "invalid_grant", "exchanged")


@pytest.mark.anyio
async def test_two_workers_asked_at_once_serve_it_once(gate: Door) -> None:
    given = per_call_token(gate)
    asked = [asyncio.to_thread(ask, gate, given) for _ in range(6)]
    codes = sorted(answer.status_code for answer in await asyncio.gather(*asked))
    assert codes == [200, 400, 400, 400, 400, 400]


def test_nobody_but_the_agent_behind_the_server_may_have_it(gate: Door) -> None:
    given = per_call_token(gate)
    assert_refused(ask(gate, given, "planner"), "invalid_grant", "another agent's server")
    assert ask(gate, given).status_code == 200


def test_it_opens_no_door_of_ours(gate: Door) -> None:
    given = per_call_token(gate)
    for path in ("/mcp", "/mcp/time", "/mcp/other"):
        answer = gate.post(modern_call("time__echo", {"text": "x"}), path=path, token=given)
        assert answer.status == 401


def test_a_server_without_an_agent_gets_nothing_to_exchange(gate: Door) -> None:
    caller = gate.gw.token()
    gate.post(modern_call("other__echo", {"text": "x"}), token=caller)
    given = gate.calls()[-1]["headers"]["authorization"].removeprefix("Bearer ")
    assert "may_act" not in claims_of(given)
    for agent in ("coder", "planner"):
        assert_refused(ask(gate, given, agent), "invalid_request", "one call upstream")


def test_only_a_granted_call_hands_anything_on(gate: Door) -> None:
    """Lists and openings pass without a grant: their tokens must not let the agent go on."""
    gate.handshake("/mcp/old")
    gate.post(modern_message("prompts/list", {}), path="/mcp/time")
    for request in gate.seen():
        bearer = request["headers"].get("authorization", "")
        if bearer and b'"tools/call"' not in request["body"].encode():
            assert "may_act" not in claims_of(bearer.removeprefix("Bearer ")), request["body"]


def test_more_scope_than_the_tools_own(gate: Door) -> None:
    for scope in ("tickets.write", "tickets.read tickets.write", "admin"):
        answer = ask(gate, per_call_token(gate), scope=scope)
        assert_refused(answer, "invalid_scope", "more scope")
    without = ask(gate, per_call_token(gate, "progress"))
    assert without.status_code == 200 and "scope" not in without.json()


def test_more_reach_than_the_caller_had(gate: Door) -> None:
    narrow = exchange_as_planner(gate, "/mcp/time")
    answer = gate.post(modern_call("echo", {"text": "x"}), path="/mcp/time", token=narrow)
    assert answer.code is None, answer
    given = gate.calls()[-1]["headers"]["authorization"].removeprefix("Bearer ")
    for target in ("/mcp", "/mcp/other"):
        assert_refused(ask(gate, given, target=target), "invalid_target", "not available")
    assert ask(gate, given, target="/mcp/time").status_code == 200


def exchange_as_planner(gate: Door, target: str) -> str:
    subject = gate.gw.token(scope="tickets.read")
    answer = ask(gate, subject, "planner", target)
    assert answer.status_code == 200, answer.text
    made: str = answer.json()["access_token"]
    gate.issuer.issued.append(made)
    return made


def test_a_call_by_the_agent_to_its_own_server_makes_no_circle(gate: Door) -> None:
    made = ask(gate, per_call_token(gate)).json()["access_token"]
    gate.issuer.issued.append(made)
    answer = gate.post(modern_call("time__echo", {"text": "x"}), token=made)
    assert answer.code is None, answer
    given = gate.calls()[-1]["headers"]["authorization"].removeprefix("Bearer ")
    assert_refused(ask(gate, given), "invalid_request", "already stands")


def test_a_server_that_is_no_agents_any_more(gate: Door) -> None:
    given, taken = per_call_token(gate), ask(gate, per_call_token(gate)).json()["access_token"]
    gate.issuer.issued.append(taken)
    server = gate.gw.config["servers"]["time"]
    try:
        del server["agent"]
        gate.gw.reload()
        assert_refused(ask(gate, given), "invalid_grant", "any more")
        assert_refused(ask(gate, taken), "invalid_grant", "any more")
    finally:
        server["agent"] = "coder"
        gate.gw.reload()


def test_revoking_the_callers_token_ends_what_came_of_the_call(gate: Door) -> None:
    caller = exchange_as_planner(gate, "/mcp")
    given = []
    for _ in range(2):
        answer = gate.post(modern_call("time__echo", {"text": "x"}), token=caller)
        assert answer.code is None, answer
        given.append(gate.calls()[-1]["headers"]["authorization"].removeprefix("Bearer "))
    taken = ask(gate, given[0]).json()["access_token"]
    gate.issuer.issued.append(taken)
    revoked = httpx2.post(
        f"{gate.gw.url}/oauth/revoke",
        data={"token": caller},
        auth=("planner", "planner-secret-for-tests"),
        trust_env=False,
    )
    assert revoked.status_code == 200, revoked.text
    with gate.untouched():
        assert gate.post(modern_call("other__echo", {"text": "x"}), token=taken).status == 401
    assert_refused(ask(gate, given[1]), "invalid_request", "revoked")
