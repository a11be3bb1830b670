"""Tool servers that take the tokens of another authorization server: what they get, and what is recorded."""

from __future__ import annotations

import time
from collections.abc import Iterator

import jwt
import pytest

from tests.external_as import EXCHANGE, TYPES, House
from tests.external_as import house as run_house
from tests.harness import wait_for


def claims_of(token: str) -> dict[str, object]:
    found: dict[str, object] = jwt.decode(token, options={"verify_signature": False})
    return found


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with run_house(tmp_path_factory.mktemp("external")) as running:
        yield running


def test_a_call_carries_the_token_that_the_users_own_issuer_made_for_the_server(
    house: House,
) -> None:
    token = house.gw.token()
    answer = house.call(token)
    assert "hello" in answer.text
    asked = house.server.exchanges[-1]
    assert asked == {
        "grant_type": EXCHANGE,
        "subject_token": token,
        "subject_token_type": f"{TYPES}access_token",
        "requested_token_type": f"{TYPES}access_token",
        "audience": "tickets",
        "scope": "tickets.use",
    }
    sent = claims_of(house.bearer())
    assert (sent["iss"], sent["sub"], sent["aud"]) == (house.server.url, "alice", "tickets")
    assert sent["scope"] == "tickets.use"


def test_a_tool_with_a_scope_of_its_own_gets_a_token_for_that_scope(house: House) -> None:
    token = house.gw.token()
    assert house.call(token, "tickets__fail").status_code == 200
    assert claims_of(house.bearer())["scope"] == "tickets.read"
    assert house.call(token).status_code == 200
    assert claims_of(house.bearer())["scope"] == "tickets.use"


def test_the_same_caller_costs_one_exchange_and_another_token_one_more(house: House) -> None:
    token, before = house.gw.token(), len(house.server.exchanges)
    for _ in range(5):
        assert house.call(token).status_code == 200
    first = house.bearer()
    assert len(house.server.exchanges) == before + 1
    assert house.call().status_code == 200
    assert house.bearer() != first
    assert len(house.server.exchanges) == before + 2


def test_records_say_what_was_issued_by_whom_and_hold_no_token(house: House) -> None:
    token = house.gw.token()
    first, second = (house.call(token).headers["agentgw-event-id"] for _ in range(2))
    records = house.gw.records()
    made = [r for r in records if r["event_id"] == first and r["method"] == "sts/external"]
    decided = [r for r in records if r["event_id"] == first and r["method"] == "tools/call"]
    again = [r for r in records if r["event_id"] == second and r["phase"] == "decision"]
    sent = claims_of(house.bearer())
    assert [r["issued"]["authorization_server"] for r in made] == ["acme"]
    issued = made[0]["issued"]
    assert (issued["iss"], issued["aud"]) == (house.server.url, "tickets")
    assert (issued["scope"], issued["exp"]) == ("tickets.use", sent["exp"])
    assert issued["jti_hash"].startswith("sha-256:") and "jti" not in issued
    assert made[0]["chain_assurance"] == "audit-only"
    assert decided[0]["issued"] is None and made[0]["txn"] == decided[0]["txn"]
    assert [r["issued"] for r in again] == [issued]
    wait_for(lambda: house.outcomes(second) == ["ok"], "the outcome")
    text = (house.gw.state / "log").rglob("*.jsonl")
    written = "".join(file.read_text() for file in text) + house.gw.output
    for secret in [*house.server.issued, "gateway-secret"]:
        assert secret.split(".")[-1] not in written


def test_lists_are_asked_for_with_a_token_of_the_gateways_own(house: House) -> None:
    listed = house.seen("tools/list")[0]["headers"]["authorization"].removeprefix("Bearer ")
    assert claims_of(listed)["sub"] == "gateway-account"
    assert house.server.forms[0]["grant_type"] == "client_credentials"


def test_a_token_with_a_chain_of_ours_is_not_one_to_show_to_another_server(house: House) -> None:
    with house.gw.client() as client:
        form = {
            "grant_type": EXCHANGE,
            "subject_token": house.gw.token(),
            "subject_token_type": f"{TYPES}access_token",
            "resource": f"{house.gw.url}/mcp",
        }
        made = client.post("/oauth/token", data=form, auth=("planner", "planner-secret-for-tests"))
    before = len(house.server.exchanges)
    error = house.refused(made.json()["access_token"])
    assert error["code"] == 46005 and "subject: gateway" in error["message"]
    assert len(house.server.exchanges) == before


def test_an_agent_that_acts_for_the_user_stands_in_the_servers_own_act(house: House) -> None:
    house.server.twist = lambda claims, answer: claims.update(
        act={"sub": "gateway", "act": {"sub": "planner"}}
    )
    try:
        event = house.call().headers["agentgw-event-id"]
    finally:
        house.server.reset()
    made = [r for r in house.gw.records() if r["event_id"] == event and r["issued"]]
    assert made[0]["chain_assurance"] == "grant"


def test_a_server_that_is_down_or_slow_fails_its_calls_only_and_recovers_by_itself(
    house: House,
) -> None:
    with house.impatient():
        house.server.open.clear()
        began = time.monotonic()
        error = house.refused()
        assert error["code"] == 46005 and "did not answer within 1 seconds" in error["message"]
        assert time.monotonic() - began < 5
        assert "hello" in house.call(tool="time__echo").text
        house.server.reset()
    assert "hello" in house.call().text


def test_a_credential_that_its_server_refused_is_had_anew(house: House) -> None:
    token, before = house.gw.token(), len(house.server.exchanges)
    for _ in range(2):
        error = house.call(token, "strict__echo").json()["error"]
        assert error["code"] == 46005 and "refused the gateway's credentials" in error["message"]
    assert len(house.server.exchanges) == before + 2


def test_why_tells_what_was_issued_and_what_differed(house: House) -> None:
    def told(event: str) -> str:
        return house.gw.command("why", event).stdout

    event = house.call().headers["agentgw-event-id"]
    assert "token     of acme: aud tickets, scope tickets.use" in told(event)
    house.server.twist = lambda claims, answer: claims.update(aud="time")
    try:
        error = house.refused()
    finally:
        house.server.reset()
    said = told(error["data"]["event_id"])
    assert "answer    refused: aud should be 'tickets', not 'time'" in said


def test_a_reload_forgets_what_was_kept(house: House) -> None:
    token = house.gw.token()
    house.call(token)
    before = len(house.server.exchanges)
    house.gw.config["limits"] = {"call": 30}
    house.gw.reload()
    wait_for(lambda: "hello" in house.call(token).text, "the call after the reload")
    assert len(house.server.exchanges) == before + 1


def test_a_grant_of_ours_carries_user_and_agents_to_a_server_that_trusts_it(
    house: House,
) -> None:
    exchange = house.gw.config["servers"]["tickets"]["auth"]["exchange"]
    exchange["subject"] = "gateway"
    house.gw.reload()
    try:
        answer = house.call()
        assert "hello" in answer.text
        asked = house.server.exchanges[-1]
        assert asked["subject_token_type"] == f"{TYPES}jwt"
        grant = claims_of(asked["subject_token"])
        agent = f"{house.gw.url}/a2a/planner"
        act = {"iss": house.gw.url, "sub": agent, "sub_profile": "ai_agent"}
        assert (grant["iss"], grant["sub"]) == (house.gw.url, "laptop|alice")
        assert (grant["aud"], grant["act"]) == (house.server.url, act)
        assert claims_of(house.bearer())["act"] == act
        event = answer.headers["agentgw-event-id"]
        made = [r for r in house.gw.records() if r["event_id"] == event and r["issued"]]
        assert made[0]["chain_assurance"] == "grant"
        with house.gw.client(asked["subject_token"]) as client:
            assert client.post("/mcp", json={}).status_code == 401
    finally:
        exchange["subject"] = "caller"
        house.gw.reload()
