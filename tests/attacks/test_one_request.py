"""A hand-over taken up in the request that uses it: the rules of an exchange, and none of its loopholes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from agentgw.core.authorization_details import TOOL_DETAILS
from agentgw.core.exchange_request import ACCESS_TOKEN, GRANT_TYPE
from tests.door import Answered, Door, door
from tests.dpop import Prover
from tests.harness import allow_all, modern_call, modern_headers, wait_for

ECHO = modern_call("time__echo", {"text": "hello"})
HEADER = "Agentgw-Subject-Token"


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """planner may hand to coder; coder is an agent by its own client, loose by one nobody vouches for."""
    with door(tmp_path_factory.mktemp("one"), grants=allow_all("time", "other")) as found:
        agents = found.gw.config["agents"]
        for name, confidential in (("coder", True), ("loose", False)):
            client = {"issuer": "laptop", "client_id": name, "confidential": confidential}
            agents.setdefault(name, {})["clients"] = [client]
        agents["planner"]["may_hand_to"] = ["coder", "loose"]
        found.gw.config["issuers"]["laptop"]["accept_evidence"] = ["client-claim"]
        found.gw.reload()
        yield found


def hand_over(at: Door, to: str = "coder", **claims: Any) -> str:
    """planner's hand-over of alice's work."""
    with at.gw.client() as client:
        answer = client.post(
            "/oauth/token",
            data={
                "grant_type": GRANT_TYPE, "subject_token": at.gw.token(**claims),
                "subject_token_type": ACCESS_TOKEN, "audience": f"{at.gw.url}/a2a/{to}",
            },
            auth=("planner", "planner-secret-for-tests"),
        )  # fmt: skip
    assert answer.status_code == 200, answer.text
    at.issuer.issued.append(token := str(answer.json()["access_token"]))
    return token


def own(at: Door, agent: str = "coder", **claims: Any) -> str:
    """The agent's own token, of a service account."""
    return at.gw.token(azp=agent, sub=f"service-{agent}", groups=None, **claims)


def both(at: Door, agent: str, handed: str, **more: Any) -> Answered:
    return at.post(ECHO, {HEADER: handed}, token=agent, **more)


def exchanges(at: Door) -> list[dict[str, Any]]:
    return [
        record
        for record in at.gw.records()
        if record["method"] == "oauth/token" and record["presenter"].endswith("/a2a/coder")
    ]


def assert_401(answer: Answered, *words: str) -> None:
    assert answer.status == 401, answer
    challenge = answer.headers["www-authenticate"]
    assert 'error="invalid_token"' in challenge
    for word in words:
        assert word in json.loads(answer.body)["error_description"]


def test_the_call_is_alices_through_planner_and_coder(opened: Door) -> None:
    handed, agent = hand_over(opened), own(opened)
    answer = both(opened, agent, handed)
    assert answer.status == 200 and b"hello" in answer.body
    sent = opened.calls()[-1]
    assert HEADER.lower() not in {name.lower() for name in sent["headers"]}
    assert handed not in str(sent) and agent not in str(sent)
    records = {r["event_id"]: r for r in opened.gw.records() if r["phase"] == "decision"}
    call = records[answer.headers["agentgw-event-id"]]
    assert call["subject"]["sub"] == "alice"
    assert [(hop["id"].rpartition("/")[2], hop["evidence"]) for hop in call["chain"]] == [
        ("coder", "client-auth"), ("planner", "client-auth"),
    ]  # fmt: skip
    assert call["presenter"].endswith("/a2a/coder")
    made = exchanges(opened)[-1]
    assert made["decision"] == "allow"
    assert made["issued"]["jti"] == call["inbound"]["jti"]
    assert made["detail"]["client_auth"] == "access_token"
    assert made["seq"] < call["seq"], "the exchange is on record before the call"
    assert not opened.leaks()


def test_later_calls_with_the_same_two_cost_no_exchange(opened: Door) -> None:
    handed, agent = hand_over(opened), own(opened)
    assert both(opened, agent, handed).status == 200
    before = len(exchanges(opened))
    for _ in range(5):
        assert both(opened, agent, handed).status == 200
    assert len(exchanges(opened)) == before
    assert both(opened, own(opened), handed).status == 200, "another token of coder's"
    assert len(exchanges(opened)) == before + 1


def test_it_reaches_no_further_than_the_path_and_the_hand_over(opened: Door) -> None:
    handed = hand_over(opened, scope="tickets.read")
    agent = own(opened, scope="tickets.read tickets.admin")
    fail = modern_call("time__fail", {})
    answer = opened.post(fail, {HEADER: handed}, token=agent)
    assert (answer.status, b"insufficient_scope" in answer.body) == (403, True)


@pytest.mark.parametrize("thief", ["planner", "loose"])
def test_another_agents_token_beside_it(opened: Door, thief: str) -> None:
    with opened.untouched():
        assert_401(both(opened, own(opened, thief), hand_over(opened)))


def test_an_agent_nobody_vouches_for(opened: Door) -> None:
    with opened.untouched():
        answer = both(opened, own(opened, "loose"), hand_over(opened, "loose"))
        assert_401(answer, "nothing proves")


def test_a_stranger(opened: Door) -> None:
    with opened.untouched():
        assert_401(both(opened, own(opened, "stranger"), hand_over(opened)), "registered agent")


def test_a_token_with_a_chain_is_not_the_agents_own(opened: Door) -> None:
    with opened.gw.client() as client:
        answer = client.post(
            "/oauth/token",
            data={
                "grant_type": GRANT_TYPE, "subject_token": hand_over(opened),
                "subject_token_type": ACCESS_TOKEN, "resource": f"{opened.gw.url}/mcp",
            },
            auth=("coder", "coder-secret-for-tests"),
        )  # fmt: skip
    chained = answer.json()["access_token"]
    with opened.untouched():
        assert_401(both(opened, chained, hand_over(opened)), "own token")


def test_a_token_for_one_tool_does_not_open_a_hand_over(opened: Door) -> None:
    one = {
        "type": TOOL_DETAILS,
        "locations": [f"{opened.gw.url}/mcp/time"],
        "actions": ["tools/call"],
        "identifier": "progress",
    }
    with opened.untouched():
        agent = own(opened, authorization_details=[one])
        assert_401(both(opened, agent, hand_over(opened)), "one tool only")


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "two words", "a,b", "\xe9", "x" * 20_000])
def test_what_is_no_token_never_counts_as_none(opened: Door, token: str) -> None:
    with opened.untouched():
        assert_401(both(opened, own(opened), token))


def test_users_tokens_and_tokens_for_here_are_no_hand_overs(opened: Door) -> None:
    agent = own(opened)
    for token in (opened.gw.token(), agent, opened.exchange(f"{opened.gw.url}/mcp")):
        with opened.untouched():
            assert_401(both(opened, agent, token), "Agentgw-Subject-Token")


def test_a_hand_over_alone_or_twice(opened: Door) -> None:
    handed = hand_over(opened)
    with opened.untouched():
        alone = opened.post(ECHO, {HEADER: handed}, drop=("Authorization",))
        assert alone.status == 401
        assert_401(opened.post(ECHO, token=handed))
    headers = [*modern_headers(ECHO, own(opened)).items(), (HEADER, handed), (HEADER, handed)]
    with opened.gw.client() as client:
        assert client.post("/mcp", json=ECHO, headers=headers).status_code == 400


def test_its_end_is_the_earlier_of_both(opened: Door) -> None:
    handed, agent = hand_over(opened), own(opened, exp=int(time.time()) + 8)
    assert both(opened, agent, handed).status == 200
    wait_for(lambda: both(opened, agent, handed).status == 401, "the end", 6)


@pytest.mark.parametrize("which", ["hand-over", "the agent's own"])
def test_either_of_the_two_revoked(opened: Door, which: str) -> None:
    handed, agent = hand_over(opened), own(opened)
    assert both(opened, agent, handed).status == 200
    with opened.gw.client() as client:
        token = handed if which == "hand-over" else agent
        answer = client.post(
            "/oauth/revoke", data={"token": token}, auth=("coder", "coder-secret-for-tests")
        )
        assert answer.status_code == 200
    with opened.untouched():
        assert_401(both(opened, agent, handed))


def test_no_more_than_one_exchange_for_many_at_once(opened: Door) -> None:
    handed, agent = hand_over(opened), own(opened)
    before = len(exchanges(opened))

    async def all_at_once() -> list[httpx2.Response]:
        headers = {**modern_headers(ECHO, agent), HEADER: handed}
        async with httpx2.AsyncClient(base_url=opened.gw.url, trust_env=False) as client:
            posts = [client.post("/mcp", json=ECHO, headers=headers) for _ in range(20)]
            return await asyncio.gather(*posts)

    answers = asyncio.run(all_at_once())
    assert {answer.status_code for answer in answers} == {200}
    assert len(exchanges(opened)) == before + 1


def test_a_refused_one_is_on_record(opened: Door) -> None:
    handed = hand_over(opened, "loose")
    assert_401(both(opened, own(opened), handed), "handed to another agent")
    refused = exchanges(opened)[-1]
    assert (refused["decision"], refused["reason"], refused["issued"]) == (
        "deny", "invalid_grant", None,
    )  # fmt: skip


def test_the_same_refused_pair_costs_one_exchange(opened: Door) -> None:
    handed, agent = hand_over(opened, to="loose"), own(opened)
    before = len(exchanges(opened))
    for _ in range(5):
        assert_401(both(opened, agent, handed), "handed to another agent")
    assert len(exchanges(opened)) == before + 1


def test_an_agents_own_bound_token_is_proven_each_time(opened: Door) -> None:
    prover, thief = Prover(), Prover()
    agent, handed, url = own(opened, cnf=prover.cnf), hand_over(opened), f"{opened.gw.url}/mcp"
    for _ in range(2):
        proven = prover.headers("POST", url, agent)
        answer = opened.post(ECHO, {HEADER: handed, **proven})
        assert answer.status == 200 and b"hello" in answer.body, answer
    assert_401(both(opened, agent, handed), "as DPoP")
    for headers in ({}, thief.headers("POST", url, agent), proven):
        stolen = {"Authorization": f"DPoP {agent}", HEADER: handed, **headers}
        assert opened.post(ECHO, stolen).status == 401
