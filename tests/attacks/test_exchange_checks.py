"""Attacks on each of the fourteen checks of token exchange, through the endpoint (docs/exchange.md).

Each ends with nothing issued, or nothing gained, and the next honest request served.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest

from agentgw.core.canonical import b64url
from agentgw.core.exchange_request import ACCESS_TOKEN, JWT
from agentgw.errors import InvalidToken
from tests.sts.sts_under_test import (
    GATEWAY,
    IDP,
    MCP,
    NOW,
    TIME,
    StsUnderTest,
    agent_id,
    claims_of,
    subject_form,
    with_assertion,
)

pytestmark = pytest.mark.anyio
PORTAL = {"azp": "portal"}


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[StsUnderTest]:
    made = StsUnderTest(tmp_path)
    before = made.rules
    async with made:
        yield made
        made.rules, made.clock.now = before, float(NOW)
        honest = await made.exchange(made.idp_token(), MCP)
        assert honest.status_code == 200, honest.text


def assert_refused(answer: httpx2.Response, error: str, words: str = "") -> None:
    assert (answer.status_code, answer.json()["error"]) == (400, error), answer.text
    assert words in answer.json()["error_description"], answer.text
    assert answer.json().keys() == {"error", "error_description"}


def with_agents(service: StsUnderTest, **changes: dict[str, Any]) -> None:
    """Configure agents otherwise, as a reload does."""
    agents = dict(service.rules.agents)
    for name, change in changes.items():
        agents[name] = dataclasses.replace(agents[name], **change)
    service.rules = dataclasses.replace(service.rules, agents=agents)


async def act_as_coder(
    service: StsUnderTest, token: str, target: str, **more: str
) -> httpx2.Response:
    """coder's exchange with a client assertion of its own."""
    kind = "audience" if "/a2a/" in target else "resource"
    form = subject_form(token) | {kind: target} | more
    return await service.post(with_assertion(form, service.assertion(jti="client")), agent=None)


# 1: strict form


@pytest.mark.parametrize(
    "claims",
    [
        '{"sub":"alice","sub":"bob"}',
        '{"act":' * 80 + "{}" + "}" * 80,
        '{"exp":1e400}',
        "[]",
        "",
    ],
    ids=["a name twice", "a tower of act", "no number", "no object", "nothing"],
)
async def test_a_subject_token_whose_json_two_parsers_read_differently(
    service: StsUnderTest, claims: str
) -> None:
    head, _, signature = service.idp_token().split(".")
    token = f"{head}.{b64url(claims.encode())}.{signature}"
    assert_refused(await service.exchange(token, MCP), "invalid_request", "subject_token")


async def test_a_subject_token_signed_by_nobody_or_not_as_its_header_says(
    service: StsUnderTest,
) -> None:
    token = service.idp_token()
    head, body, signature = token.split(".")
    for header in ({"alg": "none"}, {"alg": "HS256"}, {"alg": "ES256", "crit": ["exp"]}):
        forged = b64url(json.dumps({**header, "kid": "idp-1"}).encode())
        for sign in ("", signature):
            answer = await service.exchange(f"{forged}.{body}.{sign}", MCP)
            assert_refused(answer, "invalid_request", "subject_token")
    for bent in (f"{token}==", f"{head}.{body}.{signature}.", f" {token}", f"{head}.{body}"):
        assert_refused(await service.exchange(bent, MCP), "invalid_request", "subject_token")


@pytest.mark.parametrize("size", [0, 5_000, 17_000])
async def test_an_oversized_or_empty_actor_token_never_falls_back_to_none(
    service: StsUnderTest, size: int
) -> None:
    answer = await service.exchange(
        service.idp_token(), MCP, actor_token="A" * size, actor_token_type=JWT
    )
    assert_refused(answer, "invalid_request", "actor_token")


async def test_a_token_in_letters_that_look_like_ascii(service: StsUnderTest) -> None:
    answer = await service.exchange(service.idp_token().replace("e", "\uff45", 1), MCP)
    assert_refused(answer, "invalid_request", "characters")


# 2: issuer, its role, times


async def test_a_subject_token_of_an_issuer_nobody_configured(service: StsUnderTest) -> None:
    for issuer in ("https://evil.example.com", f"{IDP}/", IDP.upper(), GATEWAY, "", None):
        token = service.idp_token(iss=issuer)
        assert_refused(await service.exchange(token, MCP), "invalid_request", "subject_token")


async def test_a_subject_token_out_of_its_time(service: StsUnderTest) -> None:
    for times in (
        {"exp": NOW - 1}, {"exp": None}, {"exp": str(NOW + 60)}, {"exp": NOW + 10**6},
        {"nbf": NOW + 600}, {"iat": NOW + 600}, {"exp": NOW + 4},
    ):  # fmt: skip
        token = service.idp_token(**times)
        assert_refused(await service.exchange(token, MCP), "invalid_request", "subject_token")


async def test_an_act_of_an_issuer_that_vouches_for_users_only(service: StsUnderTest) -> None:
    token = service.idp_token(act={"iss": GATEWAY, "sub": agent_id("coder")})
    assert_refused(await service.exchange(token, MCP), "invalid_grant", "may not assert")
    stranger = service.idp_token(act={"sub": agent_id("coder")}, **PORTAL)
    answer = await service.exchange(stranger, MCP, "coder")
    assert_refused(answer, "invalid_request", "may not assert")


# 3: the audience, and what binds the agent


async def test_a_thief_presents_what_was_issued_to_another(service: StsUnderTest) -> None:
    issued = await service.token(service.idp_token(), MCP)
    for token in (service.idp_token(), issued, service.idp_token(**PORTAL)):
        answer = await service.exchange(token, MCP, "tester")
        assert_refused(answer, "invalid_grant", "not issued to this agent")


async def test_a_hand_over_taken_up_by_its_giver_or_by_a_third(service: StsUnderTest) -> None:
    handed = await service.token(service.idp_token(), agent_id("coder"))
    for thief in ("planner", "tester"):
        for target in (MCP, agent_id("coder"), agent_id("tester")):
            answer = await service.exchange(handed, target, thief)
            assert_refused(answer, "invalid_grant", "another agent")


async def test_a_subject_token_for_another_audience(service: StsUnderTest) -> None:
    for audience in (
        "https://other.example.com/mcp", f"{MCP}/", MCP.upper(), f"{GATEWAY}/mcp/../mcp",
        [MCP, "https://other.example.com"], ["account"], [], None, agent_id("planner"),
    ):  # fmt: skip
        answer = await service.exchange(service.idp_token(aud=audience), MCP)
        assert_refused(answer, "invalid_request", "subject_token")


# 4: stripping


async def test_leaving_out_the_actor_leaves_out_everything(service: StsUnderTest) -> None:
    handed = await service.token(service.idp_token(), agent_id("coder"))
    for form in (
        subject_form(handed) | {"resource": MCP},
        subject_form(handed) | {"resource": MCP, "client_id": "coder"},
        subject_form(handed) | {"resource": MCP, "actor_token": handed, "actor_token_type": JWT},
    ):
        answer = await service.post(form, agent=None)
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


async def test_a_token_of_ours_without_its_act_or_may_act(service: StsUnderTest) -> None:
    """Even our own key would not help: the ledger remembers the chain."""
    handed = await service.token(service.idp_token(), agent_id("coder"))
    taken = await service.token(handed, MCP, "coder")
    shorter = claims_of(taken)["act"] | {"act": None}
    for token, changes in (
        (handed, {"act": None}),
        (taken, {"act": None}),
        (taken, {"act": shorter["act"]}),
        (taken, {"act": {name: shorter[name] for name in ("iss", "sub")}}),
        (taken, {"act": claims_of(taken)["act"]["act"]}),
    ):
        answer = await service.exchange(service.resign(token, **changes), MCP, "coder")
        assert_refused(answer, "invalid_request", "differ")
    unmarked = service.resign(handed, may_act=None)
    assert_refused(await service.exchange(unmarked, MCP, "coder"), "invalid_grant")


async def test_every_agent_stays_in_the_chain_however_often_it_is_exchanged(
    service: StsUnderTest,
) -> None:
    token = await service.token(service.idp_token(), agent_id("coder"))
    for target in (MCP, MCP, TIME, TIME):
        token = await service.token(token, target, "coder")
        act = claims_of(token)["act"]
        assert (act["sub"], act["act"]["sub"]) == (agent_id("coder"), agent_id("planner"))


# 5: may_act and the step from one agent to the next


async def test_may_act_in_any_shape_that_does_not_name_the_actor(service: StsUnderTest) -> None:
    for may_act, error in (
        ({"iss": GATEWAY, "sub": agent_id("coder")}, "invalid_grant"),
        ({"iss": "https://evil.example.com", "sub": agent_id("planner")}, "invalid_grant"),
        ({"sub": "planner "}, "invalid_grant"),
        ({"sub": "portal"}, "invalid_grant"),
        ({}, "invalid_request"),
        ([agent_id("planner")], "invalid_request"),
        (agent_id("planner"), "invalid_request"),
        (None, "invalid_request"),
    ):
        claims = {**jwt.decode(service.idp_token(), options={"verify_signature": False})}
        token = jwt.encode(
            {**claims, "may_act": may_act}, service.idp.private, "ES256", headers={"kid": "idp-1"}
        )
        assert_refused(await service.exchange(token, MCP), error, "may_act")


async def test_a_hand_over_whose_giver_may_not_hand_over_any_more(service: StsUnderTest) -> None:
    handed = await service.token(service.idp_token(), agent_id("coder"))
    with_agents(service, planner={"may_hand_to": frozenset({"tester"})})
    answer = await service.exchange(handed, MCP, "coder")
    assert_refused(answer, "invalid_grant", "any more")


async def test_a_hand_over_redirected_to_another_agent(service: StsUnderTest) -> None:
    handed = await service.token(service.idp_token(), agent_id("coder"))
    to_tester = {"iss": GATEWAY, "sub": agent_id("tester")}
    for changes in ({"may_act": to_tester}, {"may_act": to_tester, "aud": agent_id("tester")}):
        answer = await service.exchange(service.resign(handed, **changes), MCP, "tester")
        assert answer.json()["error"] in ("invalid_request", "invalid_grant"), answer.text
    answer = await service.exchange(handed, MCP, "coder", may_act=agent_id("tester"))
    assert claims_of(answer.json()["access_token"])["act"]["sub"] == agent_id("coder")


# 6: the actor_token


async def test_an_actor_token_of_another_agent(service: StsUnderTest) -> None:
    answer = await service.exchange(
        service.idp_token(), MCP, actor_token=service.assertion(), actor_token_type=JWT
    )
    assert_refused(answer, "invalid_grant", "another agent")


async def test_a_replayed_actor_token(service: StsUnderTest) -> None:
    handed = await service.token(service.idp_token(), agent_id("coder"))
    more = {"actor_token": service.assertion(jti="actor"), "actor_token_type": JWT}
    first = await act_as_coder(service, handed, MCP, **more)
    assert first.status_code == 200, first.text
    again = await service.exchange(handed, MCP, "coder", **more)
    assert_refused(again, "invalid_request", "used before")
    both = service.assertion(jti="both")
    form = subject_form(handed) | {"resource": MCP, "actor_token": both, "actor_token_type": JWT}
    answer = await service.post(with_assertion(form, both), agent=None)
    assert_refused(answer, "invalid_request", "used before")


async def test_an_actor_token_that_is_no_fresh_assertion_of_the_clients_own(
    service: StsUnderTest,
) -> None:
    handed = await service.token(service.idp_token(), agent_id("coder"))
    for number, token in enumerate(
        (
            service.assertion(exp=NOW - 60), service.assertion(exp=NOW + 4000),
            service.assertion(aud=agent_id("coder")), service.assertion(jti=None),
            service.assertion("at+jwt"), service.idp_token(azp="coder"), handed, "x", "a.b.c",
        )
    ):  # fmt: skip
        more = {"actor_token": token, "actor_token_type": JWT}
        answer = await service.exchange(handed, MCP, "coder", **more)
        assert_refused(answer, "invalid_request", "the actor_token was refused")
        assert token not in answer.text or len(token) < 6, number


async def test_an_actor_token_with_a_chain_of_its_own(service: StsUnderTest) -> None:
    handed = await service.token(service.idp_token(), agent_id("coder"))
    for number, claim in enumerate(("act", "may_act")):
        other: dict[str, Any] = {claim: {"sub": agent_id("tester")}}
        token = service.assertion(jti=str(number), **other)
        more = {"actor_token": token, "actor_token_type": JWT}
        answer = await service.exchange(handed, MCP, "coder", **more)
        assert_refused(answer, "invalid_grant", "act or may_act of its own")


async def test_an_actor_token_of_any_other_type(service: StsUnderTest) -> None:
    for kind in (ACCESS_TOKEN, "urn:ietf:params:oauth:token-type:id_token", "x"):
        more = {"actor_token": service.assertion(), "actor_token_type": kind}
        answer = await service.exchange(service.idp_token(), MCP, "coder", **more)
        assert_refused(answer, "invalid_request", "actor_token_type")
    for lone in ({"actor_token": service.assertion()}, {"actor_token_type": JWT}):
        answer = await service.exchange(service.idp_token(), MCP, **lone)
        assert_refused(answer, "invalid_request", "together")


# 7: possession


@pytest.mark.parametrize(
    "cnf",
    [{"jkt": "k"}, {"x5t#S256": "c"}, {"jkt": "k", "x5t#S256": "c"}, {"jwk": {}}, {}, None, "k"],
)
async def test_a_bound_subject_token_without_proof(service: StsUnderTest, cnf: Any) -> None:
    claims = jwt.decode(service.idp_token(), options={"verify_signature": False})
    token = jwt.encode(
        {**claims, "cnf": cnf}, service.idp.private, "ES256", headers={"kid": "idp-1"}
    )
    answer = await service.exchange(token, MCP)
    assert answer.status_code == 400
    assert answer.json()["error"] in ("invalid_request", "invalid_grant"), answer.text
    assert "cnf" in answer.text or "bound" in answer.text


# 9: one transaction


async def test_a_token_of_ours_moved_to_another_transaction(service: StsUnderTest) -> None:
    token = await service.token(service.idp_token(), MCP)
    other = claims_of(await service.token(service.idp_token(), MCP))["txn"]
    for txn in (other, None, "", f"{claims_of(token)['txn']} "):
        answer = await service.exchange(service.resign(token, txn=txn), MCP)
        assert_refused(answer, "invalid_request", "differ")


async def test_a_txn_that_is_not_ours_to_keep(service: StsUnderTest) -> None:
    ours = claims_of(await service.token(service.idp_token(), MCP))["txn"]
    token = await service.token(service.idp_token(txn=ours), MCP, txn=ours)
    assert claims_of(token)["txn"] != ours


async def test_two_delegations_never_share_a_transaction(service: StsUnderTest) -> None:
    """Nor can one be mended with a piece of the other: jti and txn must be of one entry."""
    first = await service.token(service.idp_token(), agent_id("coder"))
    second = await service.token(service.idp_token(sub="bob"), agent_id("coder"))
    assert claims_of(first)["txn"] != claims_of(second)["txn"]
    grafted = service.resign(first, jti=claims_of(second)["jti"])
    assert_refused(await service.exchange(grafted, MCP, "coder"), "invalid_request", "differ")


# 10: the ledger


async def test_a_token_the_ledger_has_forgotten(service: StsUnderTest) -> None:
    token = await service.token(service.idp_token(), MCP)
    service.ledger.purge(NOW + 10**6)
    assert_refused(await service.exchange(token, MCP), "invalid_request", "not in our ledger")


async def test_a_hand_over_exchanged_without_end(service: StsUnderTest) -> None:
    service.rules = dataclasses.replace(service.rules, max_siblings=2)
    handed = await service.token(service.idp_token(), agent_id("coder"))
    for _ in range(2):
        await service.token(handed, MCP, "coder")
    answer = await service.exchange(handed, TIME, "coder")
    assert_refused(answer, "invalid_grant", "as often")
    told = [record["detail"].get("siblings") for record in service.records[1:]]  # type: ignore[attr-defined]
    assert told == [None, 1, 2]


async def test_a_fork_shows_in_the_record(service: StsUnderTest) -> None:
    handed = await service.token(service.idp_token(), agent_id("coder"))
    jti = claims_of(handed)["jti"]
    for target in (MCP, TIME, agent_id("planner")):
        await service.exchange(handed, target, "coder")
    inbound = [record["inbound"]["jti"] for record in service.records[1:]]  # type: ignore[index]
    assert inbound == [jti, jti, jti]


# 11: scope, audience, life


async def test_a_hand_over_handed_on_is_no_wider(service: StsUnderTest) -> None:
    with_agents(service, tester={"max_depth": 4})
    narrow = await service.token(
        service.idp_token(aud=[TIME]), agent_id("coder"), scope="tickets.read"
    )
    onwards = await service.token(narrow, agent_id("tester"), "coder")
    for target, scope, error in (
        (MCP, "tickets.read", "invalid_target"),
        (f"{MCP}/tickets", "tickets.read", "invalid_target"),
        (TIME, "tickets.write", "invalid_scope"),
        (TIME, "tickets.read tickets.write", "invalid_scope"),
    ):
        answer = await service.exchange(onwards, target, "tester", scope=scope)
        assert_refused(answer, error)
    taken = claims_of(await service.token(onwards, TIME, "tester"))
    assert (taken["scope"], taken["exp"]) == ("tickets.read", claims_of(narrow)["exp"])


async def test_a_target_named_twice_in_two_ways(service: StsUnderTest) -> None:
    form = subject_form(service.idp_token())
    for pairs, error in (
        ({"resource": MCP, "audience": agent_id("coder")}, "invalid_target"),
        ({"resource": MCP, "audience": TIME}, "invalid_target"),
        ({"resource": f"{MCP} {TIME}"}, "invalid_target"),
        ({"resource": f"{MCP},{TIME}"}, "invalid_target"),
    ):
        assert_refused(await service.post(form | pairs), error)
    for name in ("resource", "audience"):
        answer = await service.post([*form.items(), (name, MCP), (name, TIME)])
        assert_refused(answer, "invalid_request", "twice")


# 12: depth and cycles


async def test_a_foreign_chain_deeper_than_an_agent_of_ours_allows(service: StsUnderTest) -> None:
    with_agents(service, planner={"max_depth": 1})
    answer = await service.exchange(service.partner_token("coder", "planner"), MCP, "coder")
    assert_refused(answer, "invalid_request", "longer")
    tower = service.partner_token("coder", "planner", "tester", "idle", "a", "b")
    assert_refused(await service.exchange(tower, MCP, "coder"), "invalid_request", "act")


async def test_a_foreign_chain_with_a_cycle(service: StsUnderTest) -> None:
    for agents in (("coder", "coder"), ("coder", "planner", "coder")):
        answer = await service.exchange(service.partner_token(*agents), MCP, "coder")
        assert_refused(answer, "invalid_request", "twice")
    answer = await service.exchange(
        service.partner_token("coder", "planner"), agent_id("planner"), "coder"
    )
    assert_refused(answer, "invalid_request", "already stands")


# 13: judged again


async def test_rights_that_older_hops_lost_meanwhile(service: StsUnderTest) -> None:
    handed = await service.token(service.idp_token(), agent_id("coder"))
    taken = await service.token(handed, MCP, "coder")
    before = service.rules
    for change in (
        {"planner": {"disabled": True}},
        {"planner": {"may_hand_to": frozenset({"tester"})}},
        {"planner": {"id": agent_id("renamed")}},
    ):
        with_agents(service, **change)
        for token in (handed, taken):
            answer = await service.exchange(token, MCP, "coder")
            assert_refused(answer, "invalid_grant")
        service.rules = before
    without = {name: agent for name, agent in before.agents.items() if name != "planner"}
    service.rules = dataclasses.replace(before, agents=without)
    assert_refused(await service.exchange(taken, MCP, "coder"), "invalid_grant", "not enabled")


async def test_a_target_that_a_reload_took_away(service: StsUnderTest) -> None:
    token = await service.token(service.idp_token(), TIME)
    service.rules = dataclasses.replace(service.rules, resources=frozenset({MCP}))
    assert_refused(await service.exchange(token, TIME), "invalid_grant")


async def test_an_agent_switched_off_while_it_holds_tokens(service: StsUnderTest) -> None:
    token = await service.token(service.idp_token(), MCP)
    with_agents(service, planner={"disabled": True})
    for subject in (token, service.idp_token()):
        assert_refused(await service.exchange(subject, MCP), "unauthorized_client")


async def test_no_answer_can_be_asked_for_again_without_the_checks(service: StsUnderTest) -> None:
    answer = await service.exchange(service.idp_token(), MCP)
    assert "refresh_token" not in answer.json()
    wanted = {"requested_token_type": "urn:ietf:params:oauth:token-type:refresh_token"}
    refused = await service.exchange(service.idp_token(), MCP, **wanted)
    assert_refused(refused, "invalid_request")
    form = {"grant_type": "refresh_token", "refresh_token": answer.json()["access_token"]}
    assert_refused(await service.post(form), "unsupported_grant_type")


# 14: foreign chains


async def test_a_foreign_chain_is_not_laundered_by_exchanging_it(service: StsUnderTest) -> None:
    with_agents(service, tester={"max_depth": 4})
    token = service.partner_token("coder", "planner")
    for _ in range(3):
        token = await service.token(token, MCP, "coder")
    entry = service.ledger.find(claims_of(token)["jti"])
    assert entry is not None
    assert [hop.evidence for hop in entry.chain] == ["exchange", "act-claim"]
    handed = await service.token(token, agent_id("tester"), "coder")
    entry = service.ledger.find(claims_of(await service.token(handed, MCP, "tester"))["jti"])
    assert entry is not None
    assert [hop.evidence for hop in entry.chain] == ["exchange", "exchange", "act-claim"]


async def test_a_foreign_chain_of_agents_unknown_here(service: StsUnderTest) -> None:
    for agents in (("coder", "stranger"), ("coder", "idle")):
        answer = await service.exchange(service.partner_token(*agents), MCP, "coder")
        assert_refused(answer, "invalid_grant", "not enabled")


async def test_a_foreign_chain_presented_by_an_older_hop_of_it(service: StsUnderTest) -> None:
    token = service.partner_token("coder", "planner")
    answer = await service.exchange(token, MCP, "planner")
    assert_refused(answer, "invalid_grant", "not issued to this agent")


async def test_a_foreign_chain_in_other_words_than_ids_and_issuers(service: StsUnderTest) -> None:
    acts: tuple[Any, ...] = (
        "planner", [], {"sub": ""}, {"iss": GATEWAY}, {"sub": agent_id("coder"), "iss": 7},
        {"sub": agent_id("coder"), "act": "planner"}, {"sub": agent_id("coder") + "\n"},
    )  # fmt: skip
    for act in acts:
        token = service.partner_token(act=act)
        answer = await service.exchange(token, MCP, "coder")
        assert_refused(answer, "invalid_request", "act")


# 8: actor receipts


async def receipted(service: StsUnderTest) -> tuple[str, str]:
    """planner's hand-over and what coder made of it, with receipts switched on."""
    service.rules = dataclasses.replace(service.rules, receipts=True)
    handed = await service.token(service.idp_token(), agent_id("coder"))
    return handed, await service.token(handed, MCP, "coder")


async def test_receipts_survive_a_hand_over_byte_for_byte(service: StsUnderTest) -> None:
    handed, taken = map(claims_of, await receipted(service))
    assert taken["actor_receipts"][1:] == handed["actor_receipts"]
    assert taken["actor_receipts_complete"] is True
    newest = claims_of(taken["actor_receipts"][0])
    assert (newest["origin_jti"], newest["act"]["sub"]) == (taken["jti"], agent_id("coder"))
    header = jwt.get_unverified_header(taken["actor_receipts"][0])
    assert header["typ"] == "actor-receipt+jwt"
    foreign = claims_of(
        await service.token(service.partner_token("coder", "planner"), MCP, "coder")
    )
    assert (len(foreign["actor_receipts"]), foreign["actor_receipts_complete"]) == (1, False)


async def test_receipts_left_out_swapped_or_of_another_token(service: StsUnderTest) -> None:
    _, taken = await receipted(service)
    other = claims_of((await receipted(service))[1])["actor_receipts"]
    own = claims_of(taken)["actor_receipts"]
    for receipts in (None, [], own[:1], own[1:], own[::-1], other, [own[0], other[1]]):
        token = service.resign(taken, actor_receipts=receipts)
        answer = await service.exchange(token, MCP, "coder")
        assert_refused(answer, "invalid_grant", "actor_receipts")
    odd: tuple[Any, ...] = ("x", [1], {})
    for junk in odd:
        token = service.resign(taken, actor_receipts=junk)
        answer = await service.exchange(token, MCP, "coder")
        assert_refused(answer, "invalid_request", "actor_receipts")
    assert (await service.exchange(taken, MCP, "coder")).status_code == 200


async def test_a_receipt_is_no_token_and_a_token_no_receipt(service: StsUnderTest) -> None:
    _, taken = await receipted(service)
    for receipt in claims_of(taken)["actor_receipts"]:
        answer = await service.exchange(receipt, MCP, "coder")
        assert_refused(answer, "invalid_request", "subject_token")
        with pytest.raises(InvalidToken):
            await service.verifier.authenticate(receipt.encode(), service.clock())
    token = service.resign(taken, actor_receipts=[taken, taken])
    answer = await service.exchange(token, MCP, "coder")
    assert_refused(answer, "invalid_grant", "actor_receipts")


async def test_receipts_of_another_issuer_count_for_nothing(service: StsUnderTest) -> None:
    _, taken = await receipted(service)
    stolen = claims_of(taken)["actor_receipts"]
    token = service.partner_token(
        "coder", "planner", actor_receipts=stolen, actor_receipts_complete=True
    )
    claims = claims_of(await service.token(token, MCP, "coder"))
    assert claims["actor_receipts_complete"] is False
    assert not set(stolen) & set(claims["actor_receipts"])
