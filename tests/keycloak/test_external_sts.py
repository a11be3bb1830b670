"""Keycloak as the authorization server of a tool server: its standard token exchange V2, run for real."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest

from tests.external_as import Stage
from tests.harness import Issuer, allow_all, faulty_server, gateway, wait_for
from tests.keycloak.conftest import settings
from tests.keycloak.server import Keycloak

pytestmark = pytest.mark.keycloak


@pytest.fixture(scope="module")
def stage(
    tmp_path_factory: pytest.TempPathFactory, keycloak: Keycloak, issuer: Issuer
) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("external")
    canary = folder / "canary.jsonl"
    canary.touch()
    exchange = {"authorization_server": "acme", "audience": "tickets", "scope": "tickets.use"}
    with faulty_server("--record", str(canary)) as url:
        config = {
            **settings(keycloak, issuer),
            "authorization_servers": {
                "acme": {
                    "issuer": keycloak.url,
                    "client_id": "agentgw",
                    "client_secret": "agentgw-secret",
                    "timeout": 20,
                }
            },
            "servers": {
                "tickets": {
                    "url": f"{url}/mcp/ok?as=tickets",
                    "auth": {"mode": "exchange", "exchange": {**exchange, "outlive": 300}},
                },
                "time": {"url": f"{url}/mcp/ok?as=time"},
            },
            "grants": allow_all("tickets", "time"),
        }
        with gateway(folder, issuer, config) as gw:
            yield Stage(gw, canary)


def claims_of(token: str) -> dict[str, Any]:
    found: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return found


def test_a_tool_gets_keycloaks_own_token_for_the_user_and_for_itself_alone(
    keycloak: Keycloak, stage: Stage
) -> None:
    token = keycloak.token_of("alice", "planner")
    answer = stage.call(token)
    assert answer.status_code == 200 and "hello" in answer.text, answer.text
    sent, came = claims_of(stage.bearer()), claims_of(token)
    assert (sent["iss"], sent["sub"]) == (keycloak.url, came["sub"])
    assert sent["aud"] in ("tickets", ["tickets"])
    assert sent["scope"] == "tickets.use" and sent["azp"] == "agentgw"
    event = answer.headers["agentgw-event-id"]
    made = [r for r in stage.gw.records() if r["event_id"] == event and r["issued"]]
    assert [(r["method"], r["chain_assurance"]) for r in made] == [("sts/external", "audit-only")]
    assert made[0]["issued"]["exp"] == sent["exp"]


def test_two_users_get_two_tokens_and_the_second_call_costs_no_exchange(
    keycloak: Keycloak, stage: Stage
) -> None:
    alice, bob = (keycloak.token_of(user, "planner") for user in ("alice", "bob"))
    seen = []
    for token in (alice, bob, alice, bob):
        assert "hello" in stage.call(token).text
        seen.append(stage.bearer())
    assert seen[0] == seen[2] != seen[1] == seen[3]
    assert claims_of(seen[1])["sub"] == claims_of(bob)["sub"]


def test_a_chain_of_ours_is_not_keycloaks_to_exchange(keycloak: Keycloak, stage: Stage) -> None:
    with stage.gw.client() as client:
        form = {
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "subject_token": keycloak.token_of("alice", "planner"),
            "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "resource": f"{stage.gw.url}/mcp",
        }
        made = client.post("/oauth/token", data=form, auth=("planner", "planner-secret-for-tests"))
    error = stage.refused(made.json()["access_token"])
    assert error["code"] == 46005 and "subject: gateway" in error["message"]


def test_a_token_that_outlives_the_callers_is_refused_unless_that_is_allowed(
    keycloak: Keycloak, stage: Stage
) -> None:
    exchange = stage.gw.config["servers"]["tickets"]["auth"]["exchange"]
    token = keycloak.token_of("alice", "planner")
    exchange["outlive"] = 0
    stage.gw.reload()
    try:
        # Lives are compared with five seconds of leeway.
        ends = claims_of(token)["exp"]
        wait_for(lambda: time.time() + 300 > ends + 6, "the caller's token to be older", 20)
        assert stage.difference(stage.refused(token))["member"] == "exp"
    finally:
        exchange["outlive"] = 300
        stage.gw.reload()
    assert "hello" in stage.call(token).text


def test_a_revoked_user_is_refused_with_the_token_still_kept(
    keycloak: Keycloak, stage: Stage
) -> None:
    token = keycloak.token_of("alice", "planner")
    assert "hello" in stage.call(token).text
    reached = len(stage.seen("tools/call"))
    with stage.gw.client() as client:
        auth = ("planner", "planner-secret-for-tests")
        assert client.post("/oauth/revoke", data={"token": token}, auth=auth).status_code == 200
    began = time.monotonic()
    wait_for(lambda: stage.call(token).status_code == 401, "the revocation")
    assert time.monotonic() - began < 1
    assert len(stage.seen("tools/call")) <= reached + 1


def test_while_keycloak_hangs_kept_tokens_serve_and_others_fail_in_time(
    keycloak: Keycloak, stage: Stage
) -> None:
    account = stage.gw.config["authorization_servers"]["acme"]
    account["timeout"] = 2
    stage.gw.reload()
    known, other = (keycloak.token_of(user, "planner") for user in ("alice", "bob"))
    assert "hello" in stage.call(known).text
    keycloak.hang()
    try:
        assert "hello" in stage.call(known).text
        began = time.monotonic()
        error = stage.refused(other)
        assert error["code"] == 46005 and "did not answer within 2 seconds" in error["message"]
        assert time.monotonic() - began < 6
        assert "hello" in stage.call(other, "time__echo").text
    finally:
        keycloak.signal(signal.SIGCONT)
    wait_for(lambda: "hello" in stage.call(other).text, "the recovery", 60)
    account["timeout"] = 20
    stage.gw.reload()
