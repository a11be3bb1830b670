"""An agent with no user, from an API key to a call, a hand-over and the record of both."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from agentgw.core.exchange_request import ACCESS_TOKEN, GRANT_TYPE
from agentgw.sts.client_auth.api_key import digest_of, new_api_key
from tests.door import Door
from tests.door import door as open_door
from tests.harness import modern_call, modern_message

KEY, OLD_KEY = new_api_key(lambda size: b"k" * size), new_api_key(lambda size: b"o" * size)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """nightly acts for itself and may hand to coder; planner and coder act for users only."""
    agents: dict[str, Any] = {
        "nightly": {
            "auth": {
                "api_key_hash": [digest_of(OLD_KEY), digest_of(KEY)],
                "secret": "asleep-for-these-tests",
            },
            "client_credentials": {"scope": "tickets.read"},
            "may_hand_to": ["coder"],
        },
        "coder": {"auth": {"secret": "coder-secret-for-tests"}},
        "planner": {
            "clients": [{"issuer": "laptop", "client_id": "planner", "confidential": True}],
            "auth": {"secret": "planner-secret-for-tests"},
        },
    }
    grants = [
        {"users": ["*"], "tools": ["*/*"]},
        {"agents": ["*"], "tools": ["*/*"]},
        {"id": "own", "users": ["agent:nightly"], "agents": ["nightly"], "tools": ["time/echo"]},
        {"id": "lent", "users": ["agent:nightly"], "agents": ["coder"], "tools": ["time/echo"]},
    ]
    folder = tmp_path_factory.mktemp("night")
    with open_door(folder, agents=agents, grants=grants) as opened:
        yield opened


def ask(door: Door, agent: str = "nightly", secret: str = KEY, **form: str) -> httpx2.Response:
    data = {"grant_type": "client_credentials", **form}
    return httpx2.post(
        f"{door.gw.url}/oauth/token", data=data, auth=(agent, secret), trust_env=False
    )


def token_of(answer: httpx2.Response) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_token"])


def claims_of(token: str) -> dict[str, Any]:
    part = token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return claims


def why(door: Door, event_id: str) -> str:
    return door.gw.command("why", event_id).stdout


def test_an_api_key_is_a_bootstrap_to_a_token_for_the_agent_itself(night: Door) -> None:
    agent_id = f"{night.gw.url}/a2a/nightly"
    for key in (KEY, OLD_KEY):
        answer = ask(night, secret=key)
        claims = claims_of(token_of(answer))
        assert (claims["sub"], claims["act"]["sub"]) == (agent_id, agent_id)
        assert answer.json()["scope"] == "tickets.read"
    issued = [r for r in night.gw.records() if r["method"] == "oauth/token"][-1]
    assert issued["detail"] == {"client_auth": "api_key", "grant_type": "client_credentials"}
    assert issued["subject"] == {"iss": night.gw.url, "sub": agent_id}
    assert [hop["id"] for hop in issued["chain"]] == [agent_id]

    answered = night.post(modern_call("time__echo", {"text": "night"}), token=claims_token(night))
    assert answered.status == 200 and b"night" in answered.body
    sent = night.calls()[-1]["headers"]["authorization"].partition(" ")[2]
    assert claims_of(sent)["sub"] == agent_id
    assert claims_of(sent)["act"]["sub"] == agent_id
    told = why(night, answered.headers["agentgw-event-id"])
    assert "user      nobody (nightly acts for itself)" in told
    assert "agent     " + agent_id + " (exchange)" in told and "own" in told


def claims_token(door: Door) -> str:
    return token_of(ask(door))


def test_what_users_may_does_not_pass_to_an_agent_without_one(night: Door) -> None:
    token = claims_token(night)
    answered = night.post(modern_call("time__fail", {}), token=token)
    error = json.loads(answered.body)["error"]
    assert (error["code"], error["data"]["reason"]) == (46001, "not_available")
    assert "nightly acting for itself" in error["message"]
    listing = night.post(modern_message("tools/list", {}), token=token)
    names = [tool["name"] for tool in json.loads(listing.body)["result"]["tools"]]
    assert names == ["time__echo"]


def test_a_chain_that_begins_at_an_agent_grows_like_any_other(night: Door) -> None:
    handed = httpx2.post(
        f"{night.gw.url}/oauth/token",
        data={
            "grant_type": GRANT_TYPE,
            "subject_token": claims_token(night),
            "subject_token_type": ACCESS_TOKEN,
            "audience": f"{night.gw.url}/a2a/coder",
        },
        auth=("nightly", KEY),
        trust_env=False,
    )
    taken = httpx2.post(
        f"{night.gw.url}/oauth/token",
        data={
            "grant_type": GRANT_TYPE,
            "subject_token": token_of(handed),
            "subject_token_type": ACCESS_TOKEN,
            "resource": f"{night.gw.url}/mcp",
        },
        auth=("coder", "coder-secret-for-tests"),
        trust_env=False,
    )
    answered = night.post(modern_call("time__echo", {"text": "lent"}), token=token_of(taken))
    assert b"lent" in answered.body
    sent = claims_of(night.calls()[-1]["headers"]["authorization"].partition(" ")[2])
    assert sent["sub"].endswith("/a2a/nightly") and sent["act"]["sub"].endswith("/a2a/coder")
    assert sent["act"]["act"]["sub"].endswith("/a2a/nightly")
    refused = json.loads(night.post(modern_call("time__fail", {}), token=token_of(taken)).body)
    assert "coder acting for nightly" in refused["error"]["message"]


def test_agents_that_act_for_users_only_get_nothing_for_themselves(night: Door) -> None:
    answer = ask(night, "coder", "coder-secret-for-tests")
    assert (answer.status_code, answer.json()["error"]) == (400, "unauthorized_client")
    assert ask(night, scope="tickets.write").json()["error"] == "invalid_scope"
    public = httpx2.post(
        f"{night.gw.url}/oauth/token",
        data={"grant_type": "client_credentials", "client_id": "nightly"},
        trust_env=False,
    )
    assert (public.status_code, public.json()["error"]) == (401, "invalid_client")


def test_an_api_key_opens_the_token_endpoint_and_nothing_else(night: Door) -> None:
    with night.untouched():
        answered = night.post(modern_call("time__echo", {}), token=KEY)
        assert answered.status == 401 and KEY.encode() not in answered.body
        for headers in ({"Authorization": f"Bearer {KEY}"}, {"Authorization": f"Basic {KEY}"}):
            refused = httpx2.post(
                f"{night.gw.url}/oauth/token",
                data={"grant_type": "client_credentials", "client_id": "nightly"},
                headers=headers,
                trust_env=False,
            )
            assert (refused.status_code, refused.json()["error"]) == (401, "invalid_client")
    digest = digest_of(KEY)
    for agent, secret in (
        ("planner", KEY),
        ("nightly", digest),
        ("nightly", digest.removeprefix("sha-256:")),
        ("nightly", KEY.removeprefix("agk_")),
        ("nightly", KEY + "x"),
        ("nightly", KEY.upper()),
    ):
        assert ask(night, agent, secret).json()["error"] == "invalid_client", (agent, secret)
    assert KEY not in night.gw.output and KEY not in json.dumps(night.gw.records())
    assert ask(night, secret="asleep-for-these-tests").status_code == 200
