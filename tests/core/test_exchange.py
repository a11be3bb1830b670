from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgw.core import exchange as rules_of
from agentgw.core.exchange import ExchangeAgent, ExchangeRules, SubjectToken, exchange
from agentgw.core.exchange_request import ACCESS_TOKEN, ExchangeRequest
from agentgw.core.principal import Hop, Inbound, Issued, Subject
from agentgw.errors import OAuthError

NOW = 1795400000
GATEWAY = "https://gw.example.com"
MCP, TIME, GIT = f"{GATEWAY}/mcp", f"{GATEWAY}/mcp/time", f"{GATEWAY}/mcp/git"
NAMES = ("planner", "coder", "tester", "clerk", "auditor", "helper")


def agent_id(name: str) -> str:
    return f"{GATEWAY}/a2a/{name}"


def hop(name: str, evidence: str = "exchange") -> Hop:
    return Hop(agent_id(name), name, evidence)


def agent(name: str, **more: Any) -> ExchangeAgent:
    return ExchangeAgent(name, agent_id(name), **{"may_hand_to": frozenset(NAMES)} | more)


def make_rules(**agents: ExchangeAgent) -> ExchangeRules:
    listed = {name: agent(name) for name in NAMES} | agents
    return ExchangeRules(GATEWAY, frozenset({MCP, TIME, GIT}), listed)


RULES = make_rules()
FROM_IDP = SubjectToken(
    subject=Subject("acme", "alice", "acme|alice"),
    chain=(hop("planner", "client-auth"),),
    scopes=frozenset({"a", "b"}),
    resources=frozenset({MCP}),
    exp=NOW + 840,
    inbound=Inbound("https://idp.example.com", "idp-1", "sha-256:x"),
    client=("acme", "planner"),
    has_act=False,
)


def ask(target: str, *scopes: str) -> ExchangeRequest:
    return ExchangeRequest("token", target, frozenset(scopes) or None, ACCESS_TOKEN)


def present(issued: Issued, **changes: Any) -> SubjectToken:
    """The token that was issued, as a later subject_token."""
    handed = issued.kind == "hand-over"
    token = SubjectToken(
        subject=issued.subject,
        chain=issued.chain,
        scopes=issued.scopes,
        resources=frozenset() if handed else frozenset({issued.audience}),
        exp=issued.exp,
        inbound=Inbound(GATEWAY, issued.jti, "sha-256:y"),
        client=None,
        has_act=True,
        txn=issued.txn,
        may_act=issued.audience if handed else None,
        ours=True,
        entry=issued,
    )
    return replace(token, **changes)


def run(
    subject: SubjectToken,
    target: str,
    client: str = "planner",
    *scopes: str,
    rules: ExchangeRules = RULES,
    now: int = NOW,
) -> Issued:
    made = exchange(ask(target, *scopes), subject, client, rules, now=now, jti="j", txn="t")
    return made.issued


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(OAuthError) as caught:
        call()
    return caught.value.error


HANDED = run(FROM_IDP, agent_id("coder"))
TAKEN = run(present(HANDED), MCP, "coder")


def test_continue_keeps_the_chain_and_its_evidence() -> None:
    issued = run(FROM_IDP, MCP)
    assert issued.chain == (hop("planner", "client-auth"),)
    assert (issued.kind, issued.audience, issued.parent) == ("gateway", MCP, None)


def test_continue_proves_a_client_that_was_only_claimed() -> None:
    claimed = replace(FROM_IDP, chain=(hop("planner", "client-claim"),))
    assert run(claimed, MCP).chain == (hop("planner", "exchange"),)


def test_first_hop_starts_a_chain_from_a_listed_client() -> None:
    rules = make_rules(coder=agent("coder", subject_from=frozenset({("acme", "portal")})))
    portal = replace(
        FROM_IDP,
        chain=(Hop("client:acme|portal", None, "client-claim"),),
        client=("acme", "portal"),
    )
    assert run(portal, MCP, "coder", rules=rules).chain == (hop("coder"),)
    assert refusal(lambda: run(portal, MCP, "tester", rules=rules)) == "invalid_grant"
    assert refusal(lambda: run(replace(portal, has_act=True), MCP, "coder", rules=rules)) == (
        "invalid_grant"
    )


def test_first_hop_never_hides_a_registered_agent() -> None:
    coder = agent("coder", subject_from=frozenset({("acme", "planner")}))
    rules = make_rules(coder=coder)
    assert refusal(lambda: run(FROM_IDP, MCP, "coder", rules=rules)) == "invalid_grant"
    off = make_rules(coder=coder, planner=agent("planner", disabled=True))
    disabled = replace(FROM_IDP, chain=(Hop(agent_id("planner"), None, "client-auth"),))
    assert refusal(lambda: run(disabled, MCP, "coder", rules=off)) == "invalid_grant"


def test_hand_over_names_its_heir_and_lives_five_minutes_at_most() -> None:
    made = exchange(ask(agent_id("coder")), FROM_IDP, "planner", RULES, now=NOW, jti="j", txn="t")
    assert made.claims["may_act"] == {"iss": GATEWAY, "sub": agent_id("coder")}
    assert made.issued.exp == NOW + 300
    assert made.issued.resources == {MCP}


def test_taking_up_grows_the_chain_by_the_heir() -> None:
    assert TAKEN.chain == (hop("coder"), hop("planner", "client-auth"))
    assert (TAKEN.parent, TAKEN.txn, TAKEN.exp) == (HANDED.jti, HANDED.txn, HANDED.exp)


def test_a_hand_over_may_be_taken_up_again_until_it_expires() -> None:
    first, second = run(present(HANDED), MCP, "coder"), run(present(HANDED), TIME, "coder")
    assert first.chain == second.chain


def test_a_hand_over_may_be_handed_on_by_its_heir() -> None:
    onwards = run(present(HANDED), agent_id("tester"), "coder")
    assert onwards.chain == (hop("coder"), hop("planner", "client-auth"))
    assert run(present(onwards), MCP, "tester").chain[0] == hop("tester")


def test_check_actor_is_enabled() -> None:
    off = make_rules(planner=agent("planner", disabled=True))
    assert refusal(lambda: run(FROM_IDP, MCP, rules=off)) == "unauthorized_client"
    assert refusal(lambda: run(FROM_IDP, MCP, "stranger")) == "unauthorized_client"


def test_check_subject_may_serve() -> None:
    assert refusal(lambda: run(replace(FROM_IDP, dropped_act=True), MCP)) == "invalid_grant"


@pytest.mark.parametrize(
    "changes",
    [
        {"entry": None},
        {"entry": replace(HANDED, jti="other")},
        {"entry": replace(HANDED, subject=Subject("acme", "bob", "acme|bob"))},
        {"entry": replace(HANDED, chain=(hop("clerk"),))},
        {"entry": replace(HANDED, exp=HANDED.exp - 1)},
    ],
)
def test_check_ledger_knows_it(changes: dict[str, Any]) -> None:
    assert refusal(lambda: run(present(HANDED, **changes), MCP, "coder")) == "invalid_grant"


def test_check_time_is_left() -> None:
    assert run(FROM_IDP, MCP, now=NOW + 835).exp == NOW + 840
    assert refusal(lambda: run(FROM_IDP, MCP, now=NOW + 836)) == "invalid_grant"


@pytest.mark.parametrize("thief", ["coder", "tester"])
def test_check_subject_binds_actor_for_an_access_token(thief: str) -> None:
    assert refusal(lambda: run(FROM_IDP, MCP, thief)) == "invalid_grant"


@pytest.mark.parametrize("thief", ["planner", "tester"])
def test_check_subject_binds_actor_for_a_hand_over(thief: str) -> None:
    assert refusal(lambda: run(present(HANDED), MCP, thief)) == "invalid_grant"


@pytest.mark.parametrize("may_act", [None, agent_id("tester")])
def test_check_subject_binds_actor_needs_may_act_and_audience(may_act: str | None) -> None:
    token = present(HANDED, may_act=may_act)
    assert refusal(lambda: run(token, MCP, "coder")) == "invalid_grant"


def test_check_subject_binds_actor_refuses_a_foreign_audience() -> None:
    foreign = replace(FROM_IDP, resources=frozenset({"https://other.example.com/mcp"}))
    assert refusal(lambda: run(foreign, MCP)) == "invalid_grant"
    assert refusal(lambda: run(replace(FROM_IDP, resources=frozenset()), MCP)) == "invalid_grant"


def test_check_may_act() -> None:
    bound = replace(FROM_IDP, may_act=agent_id("coder"))
    assert refusal(lambda: run(bound, MCP)) == "invalid_grant"
    assert run(replace(FROM_IDP, may_act=agent_id("planner")), MCP).chain[0].agent == "planner"


def test_check_chain_is_enabled() -> None:
    off = make_rules(planner=agent("planner", disabled=True))
    assert refusal(lambda: run(present(TAKEN), MCP, "coder", rules=off)) == "invalid_grant"
    nobody = (hop("coder"), Hop("client:acme|x", None, "act-claim"))
    token = replace(FROM_IDP, chain=nobody, has_act=True)
    assert refusal(lambda: run(token, MCP, "coder")) == "invalid_grant"


@pytest.mark.parametrize("target", [MCP, GIT, f"{TIME}/x", f"{GATEWAY}/mcp2", GATEWAY])
def test_check_target_stays_within_reach(target: str) -> None:
    narrow = replace(FROM_IDP, resources=frozenset({TIME}))
    assert run(narrow, TIME).audience == TIME
    assert refusal(lambda: run(narrow, target)) == "invalid_target"


def test_check_target_stays_within_reach_through_a_hand_over() -> None:
    narrow = replace(FROM_IDP, resources=frozenset({TIME}))
    handed = run(narrow, agent_id("coder"))
    assert refusal(lambda: run(present(handed), MCP, "coder")) == "invalid_target"
    assert run(present(handed), TIME, "coder").audience == TIME


def test_check_target_refuses_an_agent_not_listed() -> None:
    rules = make_rules(planner=agent("planner", may_hand_to=frozenset({"tester"})))
    assert refusal(lambda: run(FROM_IDP, agent_id("coder"), rules=rules)) == "invalid_target"


def test_check_target_refuses_self_delegation() -> None:
    assert refusal(lambda: run(FROM_IDP, agent_id("planner"))) == "invalid_request"


def test_check_scope() -> None:
    assert run(FROM_IDP, MCP, "planner", "a").scopes == {"a"}
    assert refusal(lambda: run(FROM_IDP, MCP, "planner", "a", "c")) == "invalid_scope"


def test_check_depth_and_cycles_refuses_an_agent_twice() -> None:
    assert refusal(lambda: run(present(TAKEN), agent_id("planner"), "coder")) == "invalid_request"


def test_check_depth_and_cycles_takes_the_smallest_limit() -> None:
    rules = make_rules(planner=agent("planner", max_depth=2))
    assert refusal(lambda: run(present(TAKEN), agent_id("tester"), "coder", rules=rules)) == (
        "invalid_request"
    )
    shallow_heir = make_rules(tester=agent("tester", max_depth=2))
    assert refusal(
        lambda: run(present(TAKEN), agent_id("tester"), "coder", rules=shallow_heir)
    ) == ("invalid_request")


def test_check_depth_and_cycles_allows_four_by_default() -> None:
    token, holder = FROM_IDP, "planner"
    for heir in ("coder", "tester", "clerk"):
        token = present(run(present(run(token, agent_id(heir), holder)), MCP, heir))
        holder = heir
    assert len(token.chain) == 4
    assert refusal(lambda: run(token, agent_id("auditor"), holder)) == "invalid_request"


def test_a_txn_is_inherited_from_our_own_tokens_only() -> None:
    assert run(replace(FROM_IDP, txn="their-own"), MCP).txn == "t"
    assert run(present(HANDED, txn="kept"), MCP, "coder").txn == "kept"


def test_the_checks_run_in_one_fixed_order() -> None:
    """What fails first tells most; a later check must never speak before an earlier one."""
    hopeless = replace(
        FROM_IDP, dropped_act=True, exp=NOW, may_act=agent_id("tester"), resources=frozenset()
    )
    steps: list[tuple[str, dict[str, Any]]] = [
        ("carries an act", {"dropped_act": False}),
        ("expired", {"exp": NOW + 100}),
        ("audience", {"resources": frozenset({TIME})}),
        ("may_act", {"may_act": None}),
        ("target", {"resources": frozenset({MCP})}),
    ]
    token = hopeless
    for words, mend in steps:
        with pytest.raises(OAuthError, match=words):
            run(token, GIT, "planner", "c")
        token = replace(token, **mend)
    assert refusal(lambda: run(token, GIT, "planner", "c")) == "invalid_scope"


STEPS = st.lists(
    st.tuples(
        st.sampled_from(NAMES),
        st.sampled_from([MCP, TIME, GIT, *map(agent_id, NAMES), "https://evil.example.com"]),
        st.frozensets(st.sampled_from("abc")),
        st.integers(0, 200),
        st.integers(0, 9),
    ),
    max_size=12,
)


@given(STEPS)
def test_authority_only_shrinks_over_any_sequence(
    steps: list[tuple[str, str, frozenset[str], int, int]],
) -> None:
    now, tokens = NOW, [FROM_IDP]
    for number, (client, target, scopes, wait, pick) in enumerate(steps):
        now += wait
        parent = tokens[pick % len(tokens)]
        try:
            made = exchange(
                ask(target, *scopes), parent, client, RULES, now=now, jti=f"j{number}", txn="t"
            )
        except OAuthError:
            continue
        issued = made.issued
        assert issued.scopes <= parent.scopes
        assert issued.exp <= parent.exp
        assert issued.subject == FROM_IDP.subject
        reach = rules_of.reach_of(issued.resources, RULES)
        assert reach <= rules_of.reach_of(rules_of.held_resources(parent), RULES)
        taken_up = parent.entry is not None and parent.entry.kind == "hand-over"
        ids = [item.id for item in issued.chain]
        assert ids == [agent_id(client)] * taken_up + [item.id for item in parent.chain]
        assert ids[0] == agent_id(client)
        assert len(set(ids)) == len(ids) <= 4
        tokens.append(present(issued))


def _all_checks() -> set[str]:
    return {name for name in vars(rules_of) if name.startswith("check_")}


def test_every_check_has_a_test_of_its_name() -> None:
    tests = [name for name in globals() if name.startswith("test_check_")]
    for check in _all_checks():
        assert any(name.startswith(f"test_{check}") for name in tests), check
