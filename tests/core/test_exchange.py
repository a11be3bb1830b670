from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgw.core import exchange_checks
from agentgw.core.authorization_details import OneTool
from agentgw.core.canonical import b64url
from agentgw.core.exchange import ActorToken, ExchangeAgent, ExchangeRules, SubjectToken, exchange
from agentgw.core.exchange_request import ACCESS_TOKEN, ExchangeRequest
from agentgw.core.exchange_rules import Case
from agentgw.core.possession import BARE, Binding, Presented
from agentgw.core.principal import Hop, Inbound, Issued, Subject
from agentgw.core.receipts import receipt_members, with_receipt
from agentgw.errors import OAuthError

NOW = 1795400000
GATEWAY = "https://gw.example.com"
MCP, TIME, GIT = f"{GATEWAY}/mcp", f"{GATEWAY}/mcp/time", f"{GATEWAY}/mcp/git"
UPSTREAM = "https://tickets.example.com/mcp"
NAMES = ("planner", "coder", "tester", "clerk", "auditor", "helper")


def agent_id(name: str) -> str:
    return f"{GATEWAY}/a2a/{name}"


def hop(name: str, evidence: str = "exchange") -> Hop:
    return Hop(agent_id(name), name, evidence)


def agent(name: str, **more: Any) -> ExchangeAgent:
    return ExchangeAgent(name, agent_id(name), **{"may_hand_to": frozenset(NAMES)} | more)


def make_rules(behind: str | None = "coder", **agents: ExchangeAgent) -> ExchangeRules:
    """`behind` is the agent behind UPSTREAM."""
    listed = {name: agent(name) for name in NAMES} | agents
    servers = {} if behind is None else {UPSTREAM: behind}
    return ExchangeRules(GATEWAY, frozenset({MCP, TIME, GIT}), listed, behind=servers)


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
    handed = issued.kind != "gateway"
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
        may_act={"hand-over": issued.audience, "call": agent_id("coder")}.get(issued.kind),
        ours=True,
        entry=issued,
        details=issued.details,
        receipts=issued.receipts,
    )
    return replace(token, **changes)


def run(
    subject: SubjectToken,
    target: str,
    client: str = "planner",
    *scopes: str,
    rules: ExchangeRules = RULES,
    now: int = NOW,
    actor_token: ActorToken | None = None,
    presented: Presented = BARE,
) -> Issued:
    made = exchange(
        ask(target, *scopes),
        subject,
        client,
        rules,
        now=now,
        jti="j",
        txn="t",
        actor_token=actor_token,
        presented=presented,
    )
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
    assert (issued.kind, issued.audience, issued.parent) == (
        "gateway",
        MCP,
        "https://idp.example.com idp-1",
    )


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


CALLED = replace(
    run(FROM_IDP, TIME), kind="call", audience=UPSTREAM, scopes=frozenset("a"), exp=NOW + 60
)
"""What the ledger keeps of a per-call token of planner's to the server that coder is behind."""


def test_the_agent_behind_a_server_goes_on_within_the_call() -> None:
    rules = make_rules(planner=agent("planner", may_hand_to=frozenset()))
    taken = run(present(CALLED), TIME, "coder", rules=rules)
    assert taken.chain == (replace(hop("coder"), behind=True), hop("planner", "client-auth"))
    assert taken.scopes == {"a"}
    assert (taken.exp, taken.parent) == (CALLED.exp, CALLED.jti)
    onwards = run(present(taken), TIME, "coder", rules=rules)
    assert onwards.chain == taken.chain
    assert refusal(lambda: run(present(CALLED), MCP, "coder", rules=rules)) == "invalid_target"


@pytest.mark.parametrize("thief", ["planner", "tester"])
def test_check_audience_binds_actor_for_a_call(thief: str) -> None:
    assert refusal(lambda: run(present(CALLED), TIME, thief)) == "invalid_grant"


@pytest.mark.parametrize("behind", [None, "tester"])
def test_check_may_act_asks_whose_server_it_is_today(behind: str | None) -> None:
    token = present(CALLED)
    rules = make_rules(behind)
    assert refusal(lambda: run(token, TIME, "coder", rules=rules)) == "invalid_grant"


def test_check_ledger_lets_a_call_serve_once() -> None:
    token = present(CALLED, siblings=1)
    assert refusal(lambda: run(token, TIME, "coder")) == "invalid_grant"


def test_check_actor_is_enabled() -> None:
    off = make_rules(planner=agent("planner", disabled=True))
    assert refusal(lambda: run(FROM_IDP, MCP, rules=off)) == "unauthorized_client"
    assert refusal(lambda: run(FROM_IDP, MCP, "stranger")) == "unauthorized_client"


def test_check_issuer_and_times_refuses_an_act_its_issuer_may_not_assert() -> None:
    assert refusal(lambda: run(replace(FROM_IDP, dropped_act=True), MCP)) == "invalid_grant"


@pytest.mark.parametrize(
    "changes",
    [
        {"entry": None},
        {"entry": replace(HANDED, jti="other")},
        {"entry": replace(HANDED, subject=Subject("acme", "bob", "acme|bob"))},
        {"entry": replace(HANDED, chain=(hop("clerk"),))},
        {"entry": replace(HANDED, exp=HANDED.exp - 1)},
        {"entry": replace(HANDED, scopes=frozenset("a"))},
        {"siblings": 100},
    ],
)
def test_check_ledger(changes: dict[str, Any]) -> None:
    assert refusal(lambda: run(present(HANDED, **changes), MCP, "coder")) == "invalid_grant"


def test_check_issuer_and_times_needs_time_left() -> None:
    assert run(FROM_IDP, MCP, now=NOW + 835).exp == NOW + 840
    assert refusal(lambda: run(FROM_IDP, MCP, now=NOW + 836)) == "invalid_grant"


@pytest.mark.parametrize("thief", ["coder", "tester"])
def test_check_audience_binds_actor_for_an_access_token(thief: str) -> None:
    assert refusal(lambda: run(FROM_IDP, MCP, thief)) == "invalid_grant"


@pytest.mark.parametrize("thief", ["planner", "tester"])
def test_check_audience_binds_actor_for_a_hand_over(thief: str) -> None:
    assert refusal(lambda: run(present(HANDED), MCP, thief)) == "invalid_grant"


@pytest.mark.parametrize("may_act", [None, agent_id("tester")])
def test_check_audience_binds_actor_needs_may_act_and_audience(may_act: str | None) -> None:
    token = present(HANDED, may_act=may_act)
    assert refusal(lambda: run(token, MCP, "coder")) == "invalid_grant"


def test_check_audience_binds_actor_refuses_a_foreign_audience() -> None:
    foreign = replace(FROM_IDP, resources=frozenset({"https://other.example.com/mcp"}))
    assert refusal(lambda: run(foreign, MCP)) == "invalid_grant"
    assert refusal(lambda: run(replace(FROM_IDP, resources=frozenset()), MCP)) == "invalid_grant"


def test_check_may_act() -> None:
    bound = replace(FROM_IDP, may_act=agent_id("coder"))
    assert refusal(lambda: run(bound, MCP)) == "invalid_grant"
    assert run(replace(FROM_IDP, may_act=agent_id("planner")), MCP).chain[0].agent == "planner"


PLANNER, CODER = hop("planner", "client-auth"), hop("coder")


@pytest.mark.parametrize(
    ("case", "old", "new"),
    [
        ("continue", (CODER, PLANNER), (CODER,)),
        ("continue", (CODER, PLANNER), (PLANNER, CODER)),
        ("hand-over", (PLANNER,), (CODER,)),
        ("hand-over", (CODER, PLANNER), (hop("tester"), PLANNER)),
        ("hand-over", (), (CODER,)),
    ],
)
def test_check_markers_are_kept(case: Case, old: tuple[Hop, ...], new: tuple[Hop, ...]) -> None:
    token = replace(FROM_IDP, chain=old, has_act=True)
    check = exchange_checks.check_markers_are_kept
    assert refusal(lambda: check(case, token, new)) == "invalid_grant"


def test_check_markers_are_kept_lets_no_first_hop_begin_over_an_act_or_may_act() -> None:
    check = exchange_checks.check_markers_are_kept
    for marked in ({"has_act": True}, {"may_act": agent_id("tester")}):
        token = replace(FROM_IDP, **marked)
        assert refusal(lambda token=token: check("first-hop", token, (CODER,))) == "invalid_grant"  # type: ignore[misc]


def test_check_may_act_judges_who_handed_over_by_todays_rules() -> None:
    rules = make_rules(planner=agent("planner", may_hand_to=frozenset({"tester"})))
    assert refusal(lambda: run(present(HANDED), MCP, "coder", rules=rules)) == "invalid_grant"


@pytest.mark.parametrize(
    "token", [ActorToken("coder", NOW + 60), ActorToken("planner", NOW + 60, delegated=True)]
)
def test_check_actor_token(token: ActorToken) -> None:
    assert refusal(lambda: run(FROM_IDP, MCP, actor_token=token)) == "invalid_grant"


def test_an_actor_token_of_the_client_itself_gives_nothing_and_limits_the_life() -> None:
    issued = run(FROM_IDP, MCP, actor_token=ActorToken("planner", NOW + 60))
    assert issued == replace(run(FROM_IDP, MCP), exp=NOW + 60)


def test_check_possession() -> None:
    bound = replace(FROM_IDP, binding=Binding(jkt="k", x5t="c"))
    for presented in (BARE, Presented(jkt="k"), Presented(x5t="c"), Presented("other", "c")):
        assert refusal(lambda shown=presented: run(bound, MCP, presented=shown)) == "invalid_grant"  # type: ignore[misc]
    assert run(bound, MCP, presented=Presented("k", "c")).chain == (hop("planner", "mtls"),)


def signed(claims: dict[str, Any]) -> str:
    """A receipt as far as these rules look at it."""
    return f"h.{b64url(json.dumps(claims).encode())}.s"


def with_receipts(subject: SubjectToken, target: str, client: str, **more: Any) -> Issued:
    rules = replace(RULES, receipts=True)
    request = replace(ask(target), **more)
    made = exchange(request, subject, client, rules, now=NOW, jti=f"j-{target}", txn="t")
    assert made.receipt is not None
    return with_receipt(made, signed(made.receipt)).issued


RECEIPTED = with_receipts(
    present(with_receipts(FROM_IDP, agent_id("coder"), "planner")), MCP, "coder"
)


def test_each_hop_has_a_receipt_linked_to_the_older_one() -> None:
    newest, oldest = (json.loads(b64decode(item)) for item in RECEIPTED.receipts)
    assert newest["prh"] == b64url(hashlib.sha256(RECEIPTED.receipts[1].encode()).digest())
    assert "prh" not in oldest and oldest["bounds"]["resource"] == [MCP]
    assert newest["origin_jti"] == RECEIPTED.jti
    again = with_receipts(present(RECEIPTED), TIME, "coder")
    assert len(again.receipts) == 2 and again.receipts[1:] == RECEIPTED.receipts[1:]
    assert again.receipts[0] != RECEIPTED.receipts[0]


def b64decode(receipt: str) -> bytes:
    part = receipt.split(".")[1]
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def bent(**changes: Any) -> tuple[str, ...]:
    """The receipts with the newest one's claims changed."""
    claims = json.loads(b64decode(RECEIPTED.receipts[0])) | changes
    return (signed(claims), *RECEIPTED.receipts[1:])


@pytest.mark.parametrize(
    "receipts",
    [
        (),
        RECEIPTED.receipts[:1],
        RECEIPTED.receipts[::-1],
        RECEIPTED.receipts[1:],
        (*RECEIPTED.receipts, RECEIPTED.receipts[1]),
        ("x", "y"),
    ],
)
def test_check_receipts_refuses_others_than_the_ledgers(receipts: tuple[str, ...]) -> None:
    rules = replace(RULES, receipts=True)
    token = present(RECEIPTED, receipts=receipts)
    assert refusal(lambda: run(token, MCP, "coder", rules=rules)) == "invalid_grant"


@pytest.mark.parametrize(
    "changes",
    [
        {"sub": "acme|bob"},
        {"iss": "https://evil.example.com"},
        {"txn": "other"},
        {"prh": None},
        {"prh": "A" * 43},
        {"origin_jti": "other"},
        {"act": {"iss": GATEWAY, "sub": agent_id("tester"), "sub_profile": "ai_agent"}},
        {"bounds": {"scope": "a b c", "resource": [MCP]}},
        {"bounds": {"scope": "a", "resource": ["https://elsewhere.example.com"]}},
        {"exp": NOW + 10**6},
    ],
)
def test_check_receipts_refuses_what_does_not_align(changes: dict[str, Any]) -> None:
    """Even where ledger and token agree on it."""
    entry = replace(RECEIPTED, receipts=bent(**changes))
    rules = replace(RULES, receipts=True)
    token = present(entry, receipts=entry.receipts)
    assert refusal(lambda: run(token, MCP, "coder", rules=rules)) == "invalid_grant"


def test_receipts_too_large_for_a_header_stay_in_the_ledger() -> None:
    big = tuple("x" * 4000 for _ in range(2))
    assert receipt_members(big, RECEIPTED.chain) == {"actor_receipts_complete": False}
    assert receipt_members(RECEIPTED.receipts, RECEIPTED.chain)["actor_receipts_complete"] is True
    assert receipt_members(RECEIPTED.receipts[:1], RECEIPTED.chain) == {
        "actor_receipts": [RECEIPTED.receipts[0]],
        "actor_receipts_complete": False,
    }


@pytest.mark.parametrize("txn", [None, "", "t-other"])
def test_check_one_txn(txn: str | None) -> None:
    token = present(HANDED, txn=txn)
    assert refusal(lambda: run(token, MCP, "coder")) == "invalid_grant"


def test_check_history_holds_for_every_step() -> None:
    rules = make_rules(None, planner=agent("planner", may_hand_to=frozenset()))
    assert refusal(lambda: run(present(TAKEN), MCP, "coder", rules=rules)) == "invalid_grant"


def test_check_history_holds_leaves_a_step_to_the_issuer_that_asserted_it() -> None:
    rules = make_rules(planner=agent("planner", may_hand_to=frozenset()))
    token = replace(FROM_IDP, chain=(CODER, hop("planner", "act-claim")), has_act=True)
    assert run(token, MCP, "coder", rules=rules).chain == token.chain


def test_check_foreign_chain() -> None:
    check = exchange_checks.check_foreign_chain
    foreign = replace(
        FROM_IDP, chain=(hop("coder", "act-claim"), hop("planner", "act-claim")), has_act=True
    )
    check("continue", foreign, (CODER, foreign.chain[1]))
    for laundered in (CODER, PLANNER, hop("tester", "act-claim")):
        chain = (CODER, laundered)
        assert refusal(lambda chain=chain: check("continue", foreign, chain)) == "invalid_grant"  # type: ignore[misc]
    bragging = replace(foreign, chain=(foreign.chain[0], hop("planner", "exchange")))
    assert refusal(lambda: check("continue", bragging, bragging.chain)) == "invalid_grant"


def test_check_history_holds_for_every_agent() -> None:
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


def test_check_bounds_hands_on_the_reach_and_opens_the_target() -> None:
    handed, opened = run(FROM_IDP, agent_id("coder")), run(FROM_IDP, TIME)
    assert (handed.resources, opened.resources) == (frozenset({MCP}), frozenset({TIME}))
    for target, scope, error in ((GATEWAY, "a", "invalid_target"), (MCP, "c", "invalid_scope")):
        args = (FROM_IDP, target, "planner", scope)
        assert refusal(lambda args=args: run(*args)) == error  # type: ignore[misc]


def test_check_scope() -> None:
    assert run(FROM_IDP, MCP, "planner", "a").scopes == {"a"}
    assert refusal(lambda: run(FROM_IDP, MCP, "planner", "a", "c")) == "invalid_scope"


ECHO = OneTool(TIME, "echo")


def bound(target: str, subject: SubjectToken, one: OneTool | None, client: str) -> Issued:
    request = replace(ask(target), details=one)
    return exchange(request, subject, client, RULES, now=NOW, jti="j", txn="t").issued


@pytest.mark.parametrize("wanted", [None, ECHO])
def test_check_authorization_details_keeps_what_a_token_is_held_to(wanted: OneTool | None) -> None:
    handed = bound(agent_id("coder"), FROM_IDP, ECHO, "planner")
    taken = bound(TIME, present(handed), wanted, "coder")
    assert (handed.details, taken.details) == (ECHO, ECHO)
    exact = replace(ECHO, arguments_digest="sha-256:" + "A" * 43)
    assert bound(MCP, present(handed), exact, "coder").details == exact


@pytest.mark.parametrize("wanted", [OneTool(TIME, "other"), OneTool(GIT, "echo")])
def test_check_authorization_details_refuses_another_tool(wanted: OneTool) -> None:
    held = replace(FROM_IDP, details=ECHO)
    error = refusal(lambda: bound(MCP, held, wanted, "planner"))
    assert error == "invalid_authorization_details"


def test_check_authorization_details_refuses_other_arguments() -> None:
    exact = replace(ECHO, arguments_digest="sha-256:" + "A" * 43)
    held = replace(FROM_IDP, details=exact)
    for wanted in (ECHO, replace(ECHO, arguments_digest="sha-256:" + "B" * 43)):
        error = refusal(lambda one=wanted: bound(MCP, held, one, "planner"))  # type: ignore[misc]
        assert error == "invalid_authorization_details"


def test_check_authorization_details_stays_within_the_target() -> None:
    narrow = replace(FROM_IDP, resources=frozenset({TIME}))
    for subject, target, one in (
        (FROM_IDP, GIT, ECHO),
        (FROM_IDP, MCP, OneTool(MCP, "echo")),
        (FROM_IDP, MCP, OneTool(f"{MCP}/nowhere", "echo")),
        (narrow, agent_id("coder"), OneTool(GIT, "echo")),
        (replace(FROM_IDP, details=ECHO), GIT, None),
    ):
        args = (target, subject, one, "planner")
        error = refusal(lambda args=args: bound(*args))  # type: ignore[misc]
        assert error == "invalid_authorization_details"


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
    kept = replace(HANDED, txn="kept")
    assert run(present(kept), MCP, "coder").txn == "kept"


def test_the_checks_run_in_one_fixed_order() -> None:
    """What fails first tells most; a later check must never speak before an earlier one."""
    hopeless = replace(
        FROM_IDP,
        dropped_act=True,
        exp=NOW,
        may_act=agent_id("tester"),
        resources=frozenset(),
        binding=Binding(jkt="k"),
    )
    steps: list[tuple[str, dict[str, Any]]] = [
        ("carries an act", {"dropped_act": False}),
        ("expired", {"exp": NOW + 100}),
        ("audience", {"resources": frozenset({TIME})}),
        ("may_act", {"may_act": None}),
        ("bound", {"binding": None}),
        ("target", {"resources": frozenset({MCP})}),
        ("more scope", {"scopes": frozenset("abc")}),
    ]
    token = hopeless
    for words, mend in steps:
        with pytest.raises(OAuthError, match=words):
            run(token, GIT, "planner", "c")
        token = replace(token, **mend)
    assert run(token, GIT, "planner", "c").scopes == {"c"}


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
        reach = exchange_checks.reach_of(issued.resources, RULES)
        assert reach <= exchange_checks.reach_of(exchange_checks.held_resources(parent), RULES)
        taken_up = parent.entry is not None and parent.entry.kind == "hand-over"
        ids = [item.id for item in issued.chain]
        assert ids == [agent_id(client)] * taken_up + [item.id for item in parent.chain]
        assert ids[0] == agent_id(client)
        assert len(set(ids)) == len(ids) <= 4
        tokens.append(present(issued))


BOUND = replace(FROM_IDP, binding=Binding(jkt="k"))


def prove(
    subject: SubjectToken,
    presented: Presented,
    target: str = MCP,
    client: str = "planner",
    rules: ExchangeRules = RULES,
) -> Issued:
    return exchange(
        ask(target), subject, client, rules, now=NOW, jti="j", txn="t", presented=presented
    ).issued


@pytest.mark.parametrize(
    "presented", [BARE, Presented(jkt="other"), Presented(x5t="k"), Presented("other", "k")]
)
def test_check_possession_refuses_a_bound_subject_token_without_its_proof(
    presented: Presented,
) -> None:
    assert refusal(lambda: prove(BOUND, presented)) == "invalid_grant"
    assert refusal(lambda: prove(BOUND, presented, agent_id("coder"))) == "invalid_grant"


def test_check_possession_demands_what_the_agent_must_prove() -> None:
    rules = make_rules(
        planner=agent("planner", require="dpop"), coder=agent("coder", require="mtls")
    )
    assert refusal(lambda: prove(FROM_IDP, BARE, rules=rules)) == "invalid_dpop_proof"
    assert refusal(lambda: prove(FROM_IDP, Presented(x5t="c"), rules=rules)) == "invalid_dpop_proof"
    handed = present(prove(FROM_IDP, Presented(jkt="k"), agent_id("coder"), rules=rules))
    assert refusal(lambda: prove(handed, Presented(jkt="k"), client="coder", rules=rules)) == (
        "invalid_request"
    )
    taken = prove(handed, Presented("k", "c"), client="coder", rules=rules)
    assert taken.binding == Binding("k", "c")


def test_a_token_is_bound_to_what_was_proven_and_says_so() -> None:
    made = exchange(
        ask(MCP),
        FROM_IDP,
        "planner",
        RULES,
        now=NOW,
        jti="j",
        txn="t",
        presented=Presented("k", "c"),
    )
    assert made.issued.binding == Binding(jkt="k")
    assert made.claims["cnf"] == {"jkt": "k"}
    assert made.answer["token_type"] == "DPoP"
    assert run(FROM_IDP, MCP).binding is None


def test_a_binding_is_never_lost_on_the_way() -> None:
    by_certificate = replace(FROM_IDP, binding=Binding(x5t="c"))
    assert prove(by_certificate, Presented(x5t="c")).binding == Binding(x5t="c")
    assert prove(by_certificate, Presented("k", "c")).binding == Binding("k", "c")
    assert prove(BOUND, Presented(jkt="k")).binding == Binding(jkt="k")


def test_a_hand_over_is_bound_to_no_key_and_keeps_that_one_was_proven() -> None:
    handed = prove(BOUND, Presented(jkt="k"), agent_id("coder"))
    assert handed.binding is None
    assert handed.chain == (hop("planner", "dpop"),)
    assert prove(FROM_IDP, Presented(jkt="k"), agent_id("coder")).chain == FROM_IDP.chain


def _all_checks() -> set[str]:
    here = exchange_checks.__name__
    found = {name: value for name, value in vars(exchange_checks).items() if callable(value)}
    return {name for name in found if name.startswith("check_") and found[name].__module__ == here}


def test_every_check_has_a_test_of_its_name() -> None:
    tests = [name for name in globals() if name.startswith("test_check_")]
    for check in _all_checks():
        assert any(name.startswith(f"test_{check}") for name in tests), check
