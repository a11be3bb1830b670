from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from agentgw.core.grant_syntax import parse_pattern, parse_row, parse_users
from agentgw.core.grants import AccessRequest, Condition, Decision, Kind, Row, concerning, judge
from agentgw.core.principal import Caller, Hop, Inbound, Subject
from tests.policy.oracle import FixedCondition
from tests.policy.tables import decide

ALICE = Subject("acme", "alice", "acme|alice")
PLANNER = Hop("https://gw.example.com/a2a/planner", "planner", "client-auth")
CODER = Hop("https://gw.example.com/a2a/coder", "coder", "exchange")
STRANGER = Hop("client:acme|x", None, "client-auth")
CONDITIONS = {
    "true": FixedCondition(True, over_arguments=True),
    "false": FixedCondition(False, over_arguments=True),
    "error": FixedCondition(None, over_arguments=True),
    "token is false": FixedCondition(False, over_arguments=False),
    "token is error": FixedCondition(None, over_arguments=False),
    "token is true": FixedCondition(True, over_arguments=False),
}


def rows(*entries: Mapping[str, Any]) -> tuple[Row, ...]:
    return tuple(
        parse_row(f"g{i}", entry, ["acme", "corp"], True, CONDITIONS.__getitem__)
        for i, entry in enumerate(entries, 1)
    )


def ask(
    name: str = "tickets/close_ticket",
    *,
    kind: Kind = "tools",
    subject: Subject = ALICE,
    chain: tuple[Hop, ...] = (CODER, PLANNER),
    groups: frozenset[str] = frozenset(),
    held: frozenset[str] = frozenset(),
    needed: frozenset[str] = frozenset(),
    arguments: Mapping[str, Any] | None = None,
) -> AccessRequest:
    server, _, original = name.partition("/")
    inbound = Inbound("acme", None, "sha-256:x")
    caller = Caller(subject, chain, held, frozenset(), 0, inbound, "planner", groups)
    return AccessRequest(caller, server, kind, original, arguments, needed, 0.0)


CALL: Mapping[str, Any] = {"id": 42}
NOT_AVAILABLE = Decision(False, "not_available", "-")
USER = {"users": ["acme|alice"], "tools": ["tickets/*"]}
AGENTS = {"agents": ["planner", "coder"], "tools": ["tickets/*"]}
BOTH = {**USER, **AGENTS}


def test_denies_by_default() -> None:
    assert decide((), ask()) == NOT_AVAILABLE


def test_a_row_of_user_and_agents_suffices_alone() -> None:
    assert decide(rows(BOTH), ask()) == Decision(True, None, "g1")


def test_a_right_of_the_user_and_a_right_of_the_agent_are_needed_together() -> None:
    assert decide(rows(USER), ask()) == NOT_AVAILABLE
    assert decide(rows(AGENTS), ask()) == NOT_AVAILABLE
    assert decide(rows(USER, AGENTS), ask()) == Decision(True, None, "g1+g2")


def test_every_agent_of_the_chain_needs_its_grant() -> None:
    only_coder = {**AGENTS, "agents": ["coder"]}
    only_planner = {**AGENTS, "agents": ["planner"]}
    assert decide(rows(USER, only_coder), ask()) == NOT_AVAILABLE
    assert decide(rows(USER, only_planner), ask()) == NOT_AVAILABLE
    assert decide(rows(USER, only_planner, only_coder), ask()).rule == "g1+g2+g3"
    assert decide(rows(USER, only_coder), ask(chain=(CODER,))).allow


def test_a_row_for_both_of_one_hop_does_not_help_the_other_hop() -> None:
    both_for_coder = {**BOTH, "agents": ["coder"]}
    assert decide(rows(both_for_coder), ask()) == NOT_AVAILABLE
    assert decide(rows(both_for_coder, {**AGENTS, "agents": ["planner"]}), ask()) == NOT_AVAILABLE


@pytest.mark.parametrize("chain", [(), (STRANGER,), (CODER, STRANGER), (STRANGER, CODER)])
def test_an_unregistered_agent_anywhere_or_none_at_all_is_unknown(chain: tuple[Hop, ...]) -> None:
    everyone = {"users": ["*"], "agents": ["*"], "tools": ["*/*"]}
    assert decide(rows(everyone), ask(chain=chain)) == Decision(False, "unknown_agent", "-")


def test_a_disabled_agent_is_unknown() -> None:
    decision = decide(rows(BOTH), ask(), disabled=frozenset({"planner"}))
    assert decision == Decision(False, "unknown_agent", "-")
    assert decide(rows(BOTH), ask(), disabled=frozenset({"other"})).allow


@pytest.mark.parametrize(
    "who",
    [
        {"users": ["acme|alice"]},
        {"agents": ["planner"]},
        {"agents": ["coder"]},
        {"users": ["*"]},
        {},
        {"users": ["acme|alice"], "agents": ["planner"]},
        {"agents": ["*"]},
    ],
)
def test_a_deny_row_wins_wherever_it_stands(who: dict[str, list[str]]) -> None:
    deny = {**who, "tools": ["tickets/close_*"], "deny": True}
    assert decide(rows(BOTH, deny), ask()) == Decision(False, "not_available", "g2")
    assert decide(rows(deny, BOTH), ask()) == Decision(False, "not_available", "g1")
    assert decide(rows(deny, BOTH), ask("tickets/read_ticket")).allow


@pytest.mark.parametrize("who", [{"users": ["acme|bob"]}, {"agents": ["tester"]}])
def test_a_deny_row_for_others_denies_nothing(who: dict[str, list[str]]) -> None:
    assert decide(rows({**who, "tools": ["*/*"], "deny": True}, BOTH), ask()).allow
    mixed = {"users": ["acme|bob"], "agents": ["coder"], "tools": ["*/*"], "deny": True}
    assert decide(rows(mixed, BOTH), ask()).allow


def test_groups_are_matched_with_their_issuer() -> None:
    table = rows({**BOTH, "users": ["acme:group:support"]})
    assert decide(table, ask(groups=frozenset({"acme:group:support"}))).allow
    assert not decide(table, ask(groups=frozenset({"corp:group:support", "support"}))).allow
    assert not decide(table, ask()).allow


def test_a_lone_star_is_any_user() -> None:
    assert decide(rows({**BOTH, "users": ["*"]}), ask()).allow


def test_scope_is_judged_after_policy_and_names_what_is_missing() -> None:
    needed = frozenset({"w", "r", "a"})
    refused = decide(rows(BOTH), ask(held=frozenset({"r"}), needed=needed))
    assert refused == Decision(False, "insufficient_scope", "g1", ("a", "w"))
    assert decide(rows(BOTH), ask(held=needed | {"x"}, needed=needed)).allow
    assert decide((), ask(needed=needed)) == NOT_AVAILABLE


def test_min_evidence_counts_for_each_hop() -> None:
    demanding = {**AGENTS, "min_evidence": "exchange"}
    assert decide(rows(USER, demanding), ask(chain=(CODER,))).allow
    assert decide(rows(USER, demanding), ask()) == NOT_AVAILABLE
    assert decide(rows({**USER, "min_evidence": "exchange"}, AGENTS), ask()) == NOT_AVAILABLE
    assert decide(rows(USER, {**AGENTS, "min_evidence": "client-auth"}), ask()).allow


def test_unheard_of_evidence_is_the_weakest() -> None:
    odd = Hop(CODER.id, "coder", "rumour")
    assert not decide(rows({**BOTH, "min_evidence": "client-claim"}), ask(chain=(odd,))).allow
    assert decide(rows(BOTH), ask(chain=(odd,))).allow


@pytest.mark.parametrize(("when", "allowed"), [("true", True), ("false", False), ("error", False)])
def test_an_allow_needs_its_condition_and_an_error_is_false(when: str, allowed: bool) -> None:
    assert decide(rows({**BOTH, "when": when}), ask(arguments=CALL)).allow is allowed


@pytest.mark.parametrize(("when", "allowed"), [("true", False), ("false", True), ("error", False)])
def test_a_deny_fires_by_its_condition_and_an_error_is_true(when: str, allowed: bool) -> None:
    deny = {"tools": ["*/*"], "deny": True, "when": when}
    assert decide(rows(BOTH, deny), ask(arguments=CALL)).allow is allowed


@pytest.mark.parametrize("when", ["true", "false", "error"])
def test_a_list_never_hides_what_a_condition_over_arguments_may_allow(when: str) -> None:
    assert decide(rows({**BOTH, "when": when}), ask()).allow
    assert decide(rows(BOTH, {"tools": ["*/*"], "deny": True, "when": when}), ask()).allow


def test_a_list_judges_conditions_that_read_no_arguments() -> None:
    assert decide(rows({**BOTH, "when": "token is true"}), ask()).allow
    assert not decide(rows({**BOTH, "when": "token is false"}), ask()).allow
    assert not decide(rows({**BOTH, "when": "token is error"}), ask()).allow
    deny = {"tools": ["*/*"], "deny": True}
    assert not decide(rows(BOTH, {**deny, "when": "token is true"}), ask()).allow
    assert decide(rows(BOTH, {**deny, "when": "token is false"}), ask()).allow
    assert not decide(rows(BOTH, {**deny, "when": "token is error"}), ask()).allow


def test_kinds_do_not_lend_to_each_other() -> None:
    table = rows({**BOTH, "tools": None, "resources": ["tickets/*"]})
    assert decide(table, ask("tickets/x", kind="resources")).allow
    for kind in ("tools", "prompts", "methods"):
        assert not decide(table, ask("tickets/x", kind=kind)).allow


def test_methods_and_uris_keep_their_slashes() -> None:
    who = {"users": ["*"], "agents": ["*"]}
    methods = rows({**who, "methods": ["tickets/resources/subscribe", "tickets/tasks/*"]})
    assert decide(methods, ask("tickets/resources/subscribe", kind="methods")).allow
    assert decide(methods, ask("tickets/tasks/get", kind="methods")).allow
    assert not decide(methods, ask("tickets/resources/unsubscribe", kind="methods")).allow
    uris = rows({**who, "resources": ["files/file:///srv/*/readme.md"]})
    assert decide(uris, ask("files/file:///srv/a/b/readme.md", kind="resources")).allow
    assert not decide(uris, ask("files/file:///etc/readme.md", kind="resources")).allow


@pytest.mark.parametrize(
    ("pattern", "server", "name", "matches"),
    [
        ("a/b", "a", "b", True),
        ("a/*", "a", "", True),
        ("a/x*x", "a", "x", False),
        ("a/x*x", "a", "xx", True),
        ("a/*b*c*", "a", "xxbyyc", True),
        ("a/*b*c", "a", "cb", False),
        ("a/ab*ba", "a", "aba", False),
        ("a/**", "a", "anything", True),
        ("*/b", "other", "b", True),
        ("t*s/b", "tickets", "b", True),
        ("a/b", "a", "B", False),
    ],
)
def test_a_star_is_any_run_and_nothing_else_is_special(
    pattern: str, server: str, name: str, matches: bool
) -> None:
    assert parse_pattern(pattern).matches(server, name) is matches


@pytest.mark.parametrize("text", ["", "*", "tickets", "/x", "tickets/", "/"])
def test_refuses_a_pattern_that_is_no_pair(text: str) -> None:
    with pytest.raises(ValueError, match="write server/name"):
        parse_pattern(text)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"tools": ["a/b"]}, "names nobody"),
        ({"users": ["*"]}, "names no target"),
        ({"users": [], "tools": ["a/b"]}, "users is empty"),
        ({"users": ["*"], "tools": []}, "tools is empty"),
        ({"user": ["*"], "tools": ["a/b"]}, "'user' is no member"),
        ({"users": ["*"], "tools": ["a/b"], "min_evidence": "gut"}, "min_evidence must be one of"),
        ({"tools": ["a/b"], "deny": True, "min_evidence": "mtls"}, "no meaning in a deny row"),
        ({"users": ["*"], "tools": ["a"]}, "write server/name"),
    ],
)
def test_refuses_a_row_that_cannot_mean_what_was_hoped(entry: dict[str, Any], says: str) -> None:
    def never(source: str) -> Condition:
        raise AssertionError(source)

    with pytest.raises(ValueError, match=f"^grant g7: .*{says}"):
        parse_row("g7", entry, ["acme"], True, never)


def test_refuses_a_user_of_no_configured_issuer_unless_one_is_plain() -> None:
    for entry in ("acne|alice", "alice", "acne:group:x", "acme|", "acme:group:"):
        with pytest.raises(ValueError, match="begins with no configured issuer"):
            parse_users([entry], ["acme"], plain=False)
    assert parse_users(["auth0|123"], ["acme"], plain=True).plain == {"auth0|123"}


# Agents that act for themselves


def own_decision(*rows: dict[str, Any]) -> bool:
    """Whether the agent `nightly`, acting for itself, may call tickets/close by these rows."""
    agent = Subject("https://gw.example", "id", "id", agent="nightly")
    caller = Caller(
        agent, (Hop("id", "nightly", "exchange"),), frozenset(), frozenset(), 0,
        Inbound("https://gw.example", "j", "h"), "id",
    )  # fmt: skip
    request = AccessRequest(caller, "tickets", "tools", "close", {}, frozenset(), 0)
    table = [
        parse_row(f"r{number}", {"tools": ["tickets/*"], **row}, ["acme"], True, no_condition)
        for number, row in enumerate(rows)
    ]
    return judge(concerning(table, request), request).allow


def no_condition(source: str) -> Any:
    raise ValueError(source)


def test_an_agent_acting_for_itself_needs_a_row_that_names_it_as_a_user() -> None:
    agents = {"agents": ["nightly"]}
    assert own_decision({"users": ["agent:nightly"]}, agents)
    assert own_decision({"users": ["agent:nightly"], **agents})
    assert not own_decision({"users": ["agent:nightly"]})
    assert not own_decision(agents)
    assert not own_decision({"users": ["agent:other"]}, agents)
    for users in (["*"], ["acme|nightly"], ["acme:group:agents"], ["nightly"], ["id"]):
        assert not own_decision({"users": users}, agents), users


def test_a_row_that_forbids_to_all_forbids_to_agents_acting_for_themselves() -> None:
    allow = {"users": ["agent:nightly"], "agents": ["nightly"]}
    for forbidden in ({"users": ["*"]}, {"users": ["agent:nightly"]}, {"agents": ["nightly"]}, {}):
        assert not own_decision(allow, {**forbidden, "deny": True}), forbidden
    assert own_decision(allow, {"users": ["acme|x"], "deny": True})


def test_a_user_is_never_taken_for_an_agent() -> None:
    named = parse_users(["agent:nightly"], ["acme", "agent"], True)
    assert named.agents == {"nightly"} and not named.plain
    for subject in (
        Subject("acme", "agent:nightly", "agent:nightly"),
        Subject("agent", "nightly", "agent|nightly"),
    ):
        assert not named.include(subject, frozenset())
    for wrong in ("agent:", "agent:Nightly", "agent:a|b"):
        with pytest.raises(ValueError):
            parse_users([wrong], ["acme"], False)
