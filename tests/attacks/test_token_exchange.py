"""Attacks on the token endpoint; each ends with nothing issued and the next honest request served."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from agentgw.core.call_token import call_claims
from agentgw.core.exchange import ExchangeAgent
from agentgw.core.exchange_request import ACCESS_TOKEN, GRANT_TYPE
from agentgw.sts.mint import Minter
from tests.sts.sts_under_test import (
    GATEWAY,
    MCP,
    NOW,
    TIME,
    StsUnderTest,
    agent_id,
    claims_of,
    forged,
    subject_form,
    with_assertion,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[StsUnderTest]:
    async with StsUnderTest(tmp_path) as made:
        yield made
        honest = await made.exchange(made.idp_token(), MCP)
        assert honest.status_code == 200, honest.text


def assert_refused(answer: httpx2.Response, *errors: str, token: str = "") -> None:
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json()["error"] in errors, answer.text
    assert "access_token" not in answer.json()
    assert not token or token not in answer.text


async def test_splicing_one_agents_credentials_over_anothers_token(service: StsUnderTest) -> None:
    theirs = service.idp_token()
    ours = await service.token(theirs, MCP)
    handed = await service.token(theirs, agent_id("coder"))
    for token in (theirs, ours):
        assert_refused(await service.exchange(token, MCP, "tester"), "invalid_grant", token=token)
    for thief in ("planner", "tester"):
        answer = await service.exchange(handed, MCP, thief)
        assert_refused(answer, "invalid_grant", token=handed)


async def test_splicing_with_an_actor_token_of_another(service: StsUnderTest) -> None:
    answer = await service.exchange(
        service.idp_token(),
        MCP,
        "tester",
        actor_token=service.idp_token(azp="planner"),
        actor_token_type=ACCESS_TOKEN,
    )
    assert_refused(answer, "invalid_request")


async def test_stripping_an_agent_by_starting_over_from_its_client(service: StsUnderTest) -> None:
    # coder's subject_from lists planner's client, which would leave planner out of the chain.
    assert_refused(await service.exchange(service.idp_token(), MCP, "coder"), "invalid_grant")


async def test_stripping_act_from_a_token_breaks_its_signature(service: StsUnderTest) -> None:
    handed = await service.token(service.idp_token(), agent_id("coder"))
    for changes in ({"act": None}, {"may_act": None}, {"aud": MCP}, {"scope": "admin"}):
        answer = await service.exchange(forged(handed, **changes), MCP, "coder")
        assert_refused(answer, "invalid_request")


async def test_grafting_an_act_onto_a_token_of_an_issuer_that_may_not(
    service: StsUnderTest,
) -> None:
    token = service.idp_token(act={"sub": agent_id("coder")})
    assert_refused(await service.exchange(token, MCP), "invalid_request", "invalid_grant")


async def test_a_genuine_looking_token_that_the_ledger_does_not_know(
    service: StsUnderTest,
) -> None:
    real = claims_of(await service.token(service.idp_token(), MCP))
    for changes in (
        {"jti": "made-up"},
        {"scope": "admin"},
        {"exp": NOW + 9000},
        {"sub": "acme|bob"},
    ):
        token = Minter(service.keyring, GATEWAY).sign(real | changes).decode()
        assert_refused(await service.exchange(token, MCP), "invalid_request", "invalid_grant")


async def test_a_per_call_token_is_no_subject_token(service: StsUnderTest) -> None:
    caller = await service.verifier.authenticate(service.idp_token().encode(), NOW)
    call: dict[str, Any] = {
        "issuer": GATEWAY, "caller": caller, "method": "tools/call", "identifier": "x",
        "scope": None, "tool_digest": None, "params_digest": None, "may_act": None,
        "life": 60, "now": NOW, "jti": "call-1", "txn": "t",
    }  # fmt: skip
    for aud in ("https://tickets.example.com/mcp", MCP, agent_id("planner")):
        token = Minter(service.keyring, GATEWAY).sign(call_claims(**call, aud=aud)).decode()
        answer = await service.exchange(token, MCP)
        assert_refused(answer, "invalid_request", "invalid_grant", token=token)


async def test_self_delegation(service: StsUnderTest) -> None:
    # planner lists itself in may_hand_to, and still may not.
    answer = await service.exchange(service.idp_token(), agent_id("planner"))
    assert_refused(answer, "invalid_request")


async def test_a_cycle_over_two_agents(service: StsUnderTest) -> None:
    handed = await service.token(service.idp_token(), agent_id("coder"))
    taken = await service.token(handed, MCP, "coder")
    for token in (handed, taken):
        answer = await service.exchange(token, agent_id("planner"), "coder")
        assert_refused(answer, "invalid_request")


async def test_a_chain_deeper_than_its_strictest_agent_allows(service: StsUnderTest) -> None:
    handed = await service.token(service.idp_token(), agent_id("coder"))
    # tester's max_depth is 2; planner and coder stand in the chain already.
    answer = await service.exchange(handed, agent_id("tester"), "coder")
    assert_refused(answer, "invalid_request")


async def test_widening_the_scope_step_by_step(service: StsUnderTest) -> None:
    narrow = await service.token(service.idp_token(), MCP, scope="tickets.read")
    for scope in ("tickets.write", "tickets.read tickets.write", "tickets.read admin"):
        assert_refused(await service.exchange(narrow, MCP, scope=scope), "invalid_scope")
    assert claims_of(await service.token(narrow, MCP))["scope"] == "tickets.read"


async def test_widening_the_audience_step_by_step(service: StsUnderTest) -> None:
    narrow = await service.token(service.idp_token(), TIME)
    handed = await service.token(narrow, agent_id("coder"))
    for token, agent in ((narrow, "planner"), (handed, "coder")):
        for target in (MCP, f"{MCP}/tickets", f"{TIME}/", f"{TIME}x"):
            assert_refused(await service.exchange(token, target, agent), "invalid_target")
    from_idp = service.idp_token(aud=[TIME])
    assert_refused(await service.exchange(from_idp, MCP), "invalid_target")
    assert claims_of(await service.token(handed, TIME, "coder"))["aud"] == TIME


async def test_stretching_a_life_by_exchanging_again_and_again(service: StsUnderTest) -> None:
    token, end = service.idp_token(), NOW + 840
    for _ in range(8):
        service.clock.now += 100
        token = await service.token(token, MCP)
        assert claims_of(token)["exp"] <= end
    service.clock.now = end - 4
    assert_refused(await service.exchange(token, MCP), "invalid_request", "invalid_grant")
    service.clock.now = NOW


async def test_a_hand_over_outlives_nothing(service: StsUnderTest) -> None:
    short = service.idp_token(exp=NOW + 30)
    handed = await service.token(short, agent_id("coder"))
    assert claims_of(handed)["exp"] == NOW + 30
    service.clock.now = NOW + 31
    answer = await service.exchange(handed, MCP, "coder")
    assert_refused(answer, "invalid_request", "invalid_grant")
    service.clock.now = NOW


async def test_a_disabled_agent_takes_its_chain_with_it(service: StsUnderTest) -> None:
    handed = await service.token(service.idp_token(), agent_id("coder"))
    before = service.rules
    off = ExchangeAgent("planner", agent_id("planner"), disabled=True)
    service.rules = type(before)(before.issuer, before.resources, {**before.agents, "planner": off})
    assert_refused(await service.exchange(handed, MCP, "coder"), "invalid_grant")
    service.rules = before


async def test_may_act_of_any_issuer_binds(service: StsUnderTest) -> None:
    token = service.idp_token(may_act={"iss": GATEWAY, "sub": agent_id("coder")})
    assert_refused(await service.exchange(token, MCP), "invalid_grant")


async def test_a_replayed_client_assertion(service: StsUnderTest) -> None:
    handed = await service.token(service.idp_token(), agent_id("coder"))
    form = with_assertion(subject_form(handed) | {"resource": MCP}, service.assertion())
    assert (await service.post(form, agent=None)).status_code == 200
    again = await service.post(form, agent=None)
    assert (again.status_code, again.json()["error"]) == (401, "invalid_client")


async def test_an_assertion_made_for_another_server(service: StsUnderTest) -> None:
    for audience in (["https://evil.example.com", GATEWAY], f"{GATEWAY}/oauth/token"):
        form = subject_form(service.idp_token()) | {"resource": MCP}
        answer = await service.post(
            with_assertion(form, service.assertion(aud=audience)), agent=None
        )
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


@pytest.mark.parametrize("size", [0, 1, 4001, 5000, 17_000, 60_000])
async def test_an_oversized_or_empty_subject_token_never_falls_to_another_grant(
    service: StsUnderTest, size: int
) -> None:
    answer = await service.exchange("A" * size, MCP)
    assert_refused(answer, "invalid_request")


@pytest.mark.parametrize(
    "name", ["subject_token", "grant_type", "resource", "scope", "client_id", "unknown"]
)
async def test_a_parameter_sent_twice(service: StsUnderTest, name: str) -> None:
    form = {**subject_form(service.idp_token()), "resource": MCP, "client_id": "planner"}
    form |= {"scope": "tickets.read", "unknown": "x"}
    for second in (form[name], "other", ""):
        answer = await service.post([*form.items(), (name, second)])
        assert_refused(answer, "invalid_request")


async def test_other_grants_do_not_exist(service: StsUnderTest) -> None:
    for grant in (
        "client_credentials", "password", "refresh_token", "authorization_code",
        "urn:ietf:params:oauth:grant-type:jwt-bearer", GRANT_TYPE + " ", "token-exchange",
    ):  # fmt: skip
        form = subject_form(service.idp_token()) | {"resource": MCP, "grant_type": grant}
        assert_refused(await service.post(form), "unsupported_grant_type")


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": NOW - 1}, {"exp": None}, {"aud": "https://other.example.com"}, {"aud": None},
        {"iss": "https://evil.example.com"}, {"nonce": "n"}, {"events": {}}, {"cnf": {"jkt": "x"}},
        {"typ": "Refresh"}, {"azp": None}, {"sub": None},
    ],
)  # fmt: skip
async def test_a_token_that_is_no_access_token_for_us(
    service: StsUnderTest, changes: dict[str, Any]
) -> None:
    token = service.idp_token(**changes)
    answer = await service.exchange(token, MCP)
    assert_refused(answer, "invalid_request", "invalid_grant", token=token)
