from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgw.core.grant_syntax import parse_row
from agentgw.core.grants import KINDS, AccessRequest
from agentgw.core.principal import Caller, Hop, Inbound, Subject
from agentgw.policy import Decision
from agentgw.policy.grants import LONGEST_REMEMBERED_NAME, GrantsPolicy
from tests.policy.oracle import FixedCondition, Oracle
from tests.policy.tables import decide, rows_from

ALIASES = ["acme", "corp"]
AGENTS = ["planner", "coder", "tester"]
SUBJECTS = [
    Subject("acme", "alice", "acme|alice"),
    Subject("acme", "ali*", "acme|ali*"),
    Subject("corp", "alice", "corp|alice"),
    Subject("desk", "bob", "bob"),
    Subject("desk", "acme|alice", "acme|alice"),
    Subject("desk", "acme:group:support", "acme:group:support"),
]
USERS = ["acme|alice", "acme|ali*", "corp|alice", "bob", "acme:group:support", "*", "ali*"]
GROUPS = ["acme:group:support", "corp:group:support", "support", "*"]
PATTERNS = [
    "time/*",
    "tickets/read_*",
    "tickets/*",
    "*/read_a",
    "t*/*a",
    "tickets/a/b",
    "*/*",
    "a/b*",
]
NAMES = ["read_a", "read_", "a/b", "close", "a", "*", "read_*"]
EVIDENCE = ["client-claim", "client-auth", "exchange", "mtls"]
CONDITIONS = {
    f"{outcome} {over}": FixedCondition(outcome, over)
    for outcome in (True, False, None)
    for over in (True, False)
}


def some(values: list[str]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=2, unique=True)


@st.composite
def entries(draw: st.DrawFn) -> dict[str, Any]:
    entry: dict[str, Any] = {"deny": draw(st.integers(0, 4)) == 0}
    who = draw(st.sampled_from([("users",), ("agents",), ("users", "agents")]))
    if "users" in who:
        entry["users"] = draw(some(USERS))
    if "agents" in who:
        entry["agents"] = draw(some([*AGENTS, "*"]))
    entry[draw(st.sampled_from(["tools", "tools", "methods"]))] = draw(some(PATTERNS))
    if draw(st.integers(0, 3)) == 0:
        entry["when"] = draw(st.sampled_from(sorted(CONDITIONS)))
    if not entry["deny"] and draw(st.integers(0, 3)) == 0:
        entry["min_evidence"] = draw(st.sampled_from(EVIDENCE))
    return entry


HOPS = st.builds(
    Hop,
    id=st.just("urn:agent"),
    agent=st.sampled_from([*AGENTS, *AGENTS, None]),
    evidence=st.sampled_from(EVIDENCE),
)
REQUESTS = st.builds(
    AccessRequest,
    caller=st.builds(
        Caller,
        subject=st.sampled_from(SUBJECTS),
        chain=st.lists(HOPS, max_size=3).map(tuple),
        scopes=st.frozensets(st.sampled_from(["r", "w"])),
        resources=st.just(frozenset()),
        exp=st.just(0),
        inbound=st.just(Inbound("acme", None, "sha-256:x")),
        presenter=st.just("planner"),
        groups=st.frozensets(st.sampled_from(GROUPS), max_size=2),
        claims=st.just(MappingProxyType({})),
    ),
    server=st.sampled_from(["time", "tickets", "a", "*", "tickets/a"]),
    kind=st.sampled_from(["tools", "tools", "methods", "prompts"]),
    name=st.sampled_from(NAMES),
    arguments=st.sampled_from([None, {}, {"a": 1}]),
    scopes=st.frozensets(st.sampled_from(["r", "w"]), max_size=1),
    now=st.just(0.0),
)


@settings(max_examples=400, deadline=None)
@given(
    table=st.lists(entries(), max_size=8),
    asked=st.lists(REQUESTS, min_size=1, max_size=4),
    disabled=st.frozensets(st.sampled_from(AGENTS), max_size=1),
)
def test_agrees_with_the_naive_reading(
    table: list[dict[str, Any]], asked: list[AccessRequest], disabled: frozenset[str]
) -> None:
    rows = tuple(
        parse_row(f"g{i}", entry, ALIASES, True, CONDITIONS.__getitem__)
        for i, entry in enumerate(table)
    )
    policy = GrantsPolicy(rows, "p-1", disabled, cache_size=2)
    oracle = Oracle(table, ALIASES, CONDITIONS, disabled)
    for request in asked + asked:
        decision = policy.decide(request)
        assert (decision.allow, decision.reason) == oracle.judge(request)
        assert decision == decide(rows, request, disabled)
        assert decision.missing_scopes == (
            tuple(sorted(request.scopes - request.caller.scopes))
            if decision.reason == "insufficient_scope"
            else ()
        )


@settings(max_examples=200, deadline=None)
@given(table=st.lists(entries(), max_size=6), request=REQUESTS)
def test_a_list_shows_whatever_some_call_is_allowed(
    table: list[dict[str, Any]], request: AccessRequest
) -> None:
    rows = tuple(
        parse_row(f"g{i}", entry, ALIASES, True, CONDITIONS.__getitem__)
        for i, entry in enumerate(table)
    )
    if decide(rows, request._replace(arguments={"a": 1})).allow:
        assert decide(rows, request._replace(arguments=None)).allow


CODER = Hop("urn:c", "coder", "exchange")
PLANNER = Hop("urn:p", "planner", "client-auth")
EXAMPLE_GRANTS: list[dict[str, Any]] = [
    {"users": ["acme:group:support"], "tools": ["time/*", "tickets/read_*"]},
    {"agents": ["planner", "coder"], "tools": ["time/*", "tickets/*"]},
    {
        "users": ["acme|alice"],
        "tools": ["tickets/close_ticket"],
        "when": "args.priority in ['P3', 'P4']",
    },
]


def ask(
    name: str,
    arguments: Mapping[str, Any] | None = MappingProxyType({}),
    scopes: frozenset[str] = frozenset(),
    held: frozenset[str] = frozenset(),
) -> AccessRequest:
    caller = Caller(
        subject=Subject("acme", "alice", "acme|alice"),
        chain=(CODER, PLANNER),
        scopes=held,
        resources=frozenset(),
        exp=0,
        inbound=Inbound("acme", None, "sha-256:x"),
        presenter="coder",
        groups=frozenset({"acme:group:support"}),
    )
    return AccessRequest(caller, "tickets", "tools", name, arguments, scopes, 0.0)


def policy(**options: Any) -> GrantsPolicy:
    return GrantsPolicy(rows_from(EXAMPLE_GRANTS, ["acme"]), "p-1", **options)


def test_the_grants_of_an_example_read_as_written() -> None:
    table = policy()
    assert table.version == "p-1"
    assert table.decide(ask("read_ticket")) == Decision(True, None, "g1+g2")
    assert table.decide(ask("close_ticket", {"priority": "P3"})) == Decision(True, None, "g2+g3")
    assert not table.decide(ask("close_ticket", {"priority": "P1"})).allow
    assert not table.decide(ask("close_ticket", {"id": 42})).allow
    assert table.decide(ask("close_ticket", None)).allow
    assert table.decide(ask("drop_table")) == Decision(False, "not_available", "-")


def test_remembers_only_answers_that_hang_on_no_condition() -> None:
    table = policy()
    for priority, allowed in (("P3", True), ("P1", False), ("P4", True)):
        assert table.decide(ask("close_ticket", {"priority": priority})).allow is allowed
    asked_twice = ask("read_ticket")
    assert table.decide(asked_twice) is table.decide(asked_twice)
    assert table.decide(ask("close_ticket", None)) is not table.decide(ask("close_ticket", None))


def test_a_remembered_answer_serves_no_other_caller() -> None:
    table = policy()
    asked = ask("read_ticket", scopes=frozenset({"r"}), held=frozenset({"r"}))
    caller = asked.caller
    assert table.decide(asked).allow
    others = [
        replace(caller, subject=Subject("corp", "alice", "corp|alice"), groups=frozenset()),
        replace(caller, groups=frozenset()),
        replace(caller, chain=(CODER, Hop("urn:t", "tester", "exchange"))),
        replace(caller, chain=(CODER, replace(PLANNER, agent=None))),
        replace(caller, scopes=frozenset()),
    ]
    assert [table.decide(asked._replace(caller=other)).allow for other in others] == [False] * 5
    assert not table.decide(asked._replace(server="time2")).allow
    assert not table.decide(asked._replace(kind="prompts")).allow
    assert not table.decide(asked._replace(scopes=frozenset({"w"}))).allow


def test_the_memory_is_bounded_in_entries_and_in_length_of_names() -> None:
    table = policy(cache_size=3)
    for number in range(10):
        table.decide(ask(f"read_{number}"))
    kept = [table.decide(ask(f"read_{number}")) for number in (7, 8, 9)]
    assert len(table._answers) == 3
    assert kept == [table.decide(ask(f"read_{number}")) for number in (7, 8, 9)]
    long = ask("read_" + "x" * LONGEST_REMEMBERED_NAME)
    assert table.decide(long).allow
    assert table.decide(long) is not table.decide(long)


def test_a_disabled_agent_is_unknown_in_every_position() -> None:
    for agent in ("coder", "planner"):
        table = policy(disabled=frozenset({agent}))
        assert table.decide(ask("read_ticket")) == Decision(False, "unknown_agent", "-")


def test_a_wrong_entry_is_named() -> None:
    with pytest.raises(ValueError, match=r"^grant g2: when is no CEL expression"):
        rows_from([EXAMPLE_GRANTS[0], {**EXAMPLE_GRANTS[1], "when": "args."}], ["acme"])


def test_a_row_for_every_server_counts_beside_a_row_for_one() -> None:
    grants: list[dict[str, Any]] = [
        {"users": ["*"], "agents": ["*"], "tools": ["tickets/a"]},
        {"users": ["*"], "agents": ["*"], "tools": ["*/b"]},
        {"tools": ["t*/c*"], "deny": True},
        {"users": ["*"], "agents": ["*"], "tools": ["*/c", "tickets/cc"]},
    ]
    table = GrantsPolicy(rows_from(grants, []), "p-2")
    answers = {name: table.decide(ask(name)).rule for name in ("a", "b", "c", "cc", "d")}
    assert answers == {"a": "g1", "b": "g2", "c": "g3", "cc": "g3", "d": "-"}
    elsewhere = ask("c")._replace(server="files")
    assert table.decide(elsewhere).rule == "g4"
    assert all(table.decide(elsewhere._replace(kind=kind)).rule == "-" for kind in KINDS[1:])


@pytest.mark.parametrize(
    ("grants", "offered"),
    [
        ([{"users": ["*"], "agents": ["*"], "tools": ["tickets/a"]}], True),
        ([{"users": ["acme|alice"], "resources": ["tickets/*"]}, {"agents": ["coder"], "tools": ["*/x"]}],
         True),
        ([{"users": ["acme|alice"], "tools": ["tickets/*"]}], False),
        ([{"agents": ["coder"], "tools": ["tickets/*"]}], False),
        ([{"users": ["acme|bob"], "tools": ["*/*"]}, {"agents": ["*"], "tools": ["*/*"]}], False),
        ([{"users": ["acme|alice"], "agents": ["tester"], "tools": ["*/*"]},
          {"agents": ["*"], "tools": ["*/*"]}], False),
        ([{"users": ["*"], "tools": ["time/*"]}, {"agents": ["*"], "tools": ["tickets/*"]}], False),
        ([{"users": ["*"], "agents": ["*"], "tools": ["tickets/*"], "deny": True}], False),
    ],
)  # fmt: skip
def test_a_server_is_offered_where_user_and_agent_have_something_of_it(
    grants: list[dict[str, Any]], offered: bool
) -> None:
    table = GrantsPolicy(rows_from(grants, ["acme"]), "p-3")
    caller = replace(ask("a").caller, chain=(CODER,))
    assert table.offers(caller, "tickets") is offered
