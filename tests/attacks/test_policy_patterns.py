"""A caller who chooses names, subjects and groups tries to widen what a pattern matches."""

from __future__ import annotations

import pytest

from agentgw.core.principal import Caller, Hop, Inbound, Subject
from agentgw.policy import AccessRequest
from agentgw.policy.grants import GrantsPolicy
from tests.policy.tables import rows_from

ALICE = Subject("acme", "alice", "acme|alice")
CODER = Hop("urn:c", "coder", "exchange")
EVERYONE = {"users": ["*"], "agents": ["*"]}


def allowed(
    grant: dict[str, list[str]],
    server: str,
    name: str,
    subject: Subject = ALICE,
    chain: tuple[Hop, ...] = (CODER,),
    groups: frozenset[str] = frozenset(),
) -> bool:
    policy = GrantsPolicy(rows_from([grant], ["acme", "corp"], plain=True), "p-1")
    inbound = Inbound("acme", None, "sha-256:x")
    caller = Caller(subject, chain, frozenset(), frozenset(), 0, inbound, "coder", groups)
    request = AccessRequest(caller, server, "tools", name, {}, frozenset(), 0.0)
    return policy.decide(request).allow


@pytest.mark.parametrize(
    "name",
    [
        "clos\u0435_ticket",  # Cyrillic e
        "Close_ticket",
        "close_ticket\u200b",
        "close\u200d_ticket",
        "\ufeffclose_ticket",
        "close_ticket ",
        " close_ticket",
        "close_ticket\n",
        "close_ticket\x00",
        "\uff43lose_ticket",  # full-width c
        "close_tic\u212aet",  # Kelvin sign, which case folding makes a k
        "tickets/close_ticket",
        "../tickets/close_ticket",
        "close_ticket/",
        "close%5Fticket",
    ],
)
def test_a_name_that_only_looks_alike_is_another_name(name: str) -> None:
    grant = {**EVERYONE, "tools": ["tickets/close_ticket"]}
    assert allowed(grant, "tickets", "close_ticket")
    assert not allowed(grant, "tickets", name)


def test_composed_and_decomposed_letters_are_two_names() -> None:
    grant = {**EVERYONE, "tools": ["tickets/caf\u00e9"]}
    assert allowed(grant, "tickets", "caf\u00e9")
    assert not allowed(grant, "tickets", "cafe\u0301")


@pytest.mark.parametrize(
    ("server", "name"),
    [
        ("ticket\u0455", "x"),
        ("Tickets", "x"),
        ("tickets2", "x"),
        ("tickets/evil", "x"),
        ("", "tickets/x"),
    ],
)
def test_a_star_stays_on_its_side_of_the_slash(server: str, name: str) -> None:
    assert not allowed({**EVERYONE, "tools": ["tickets/*"]}, server, name)


def test_a_server_pattern_never_reaches_into_the_name() -> None:
    grant = {**EVERYONE, "tools": ["tick*/read"]}
    assert allowed(grant, "tickets", "read")
    assert not allowed(grant, "tick", "ets/read")
    assert not allowed(grant, "tick", "x/read")


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("t/read_[ab]", "read_a"),
        ("t/read_?", "read_a"),
        ("t/read_.", "read_a"),
        ("t/{read,write}", "read"),
        ("t/!read", "write"),
        ("t/read|write", "read"),
        (r"t/\*", "read"),
        ("t/%", "read"),
        ("t/~", "read"),
    ],
)
def test_no_sign_but_the_star_is_special(pattern: str, name: str) -> None:
    grant = {**EVERYONE, "tools": [pattern]}
    assert not allowed(grant, "t", name)
    if "*" not in pattern:
        assert allowed(grant, "t", pattern.partition("/")[2])


@pytest.mark.parametrize("name", ["*", "read_*", "**", "r*", "[a-z]*"])
def test_a_name_of_a_request_is_never_a_pattern(name: str) -> None:
    assert not allowed({**EVERYONE, "tools": ["tickets/read_ticket"]}, "tickets", name)
    assert not allowed({**EVERYONE, "tools": ["tickets/x"]}, "*", "x")


@pytest.mark.parametrize("sub", ["*", "ali*", "alic?", "[a]lice", "alice ", "Alice", "\u0430lice"])
def test_a_subject_that_looks_like_a_pattern_matches_no_one_else(sub: str) -> None:
    grant = {"users": ["acme|alice"], "agents": ["coder"], "tools": ["tickets/*"]}
    for subject in (Subject("acme", sub, f"acme|{sub}"), Subject("desk", sub, sub)):
        assert not allowed(grant, "tickets", "x", subject=subject)


def test_a_star_inside_a_granted_user_is_only_a_character() -> None:
    for entry in ("acme|ali*", "acme|*", "*|alice", "ali*", "**"):
        grant = {"users": [entry], "agents": ["coder"], "tools": ["tickets/*"]}
        assert not allowed(grant, "tickets", "x")
    literally = Subject("acme", "ali*", "acme|ali*")
    grant = {"users": ["acme|ali*"], "agents": ["coder"], "tools": ["tickets/*"]}
    assert allowed(grant, "tickets", "x", subject=literally)


@pytest.mark.parametrize("sub", ["acme|alice", "acme:group:support", "*"])
def test_a_bare_sub_of_a_plain_issuer_is_no_qualified_name_and_no_group(sub: str) -> None:
    impostor = Subject("desk", sub, sub)
    for entry in ("acme|alice", "acme:group:support"):
        grant = {"users": [entry], "agents": ["coder"], "tools": ["tickets/*"]}
        assert not allowed(grant, "tickets", "x", subject=impostor)


def test_a_sub_with_a_bar_belongs_to_its_own_issuer() -> None:
    grant = {"users": ["corp|acme|alice"], "agents": ["coder"], "tools": ["tickets/*"]}
    assert allowed(grant, "tickets", "x", subject=Subject("corp", "acme|alice", "corp|acme|alice"))
    assert not allowed(grant, "tickets", "x")


@pytest.mark.parametrize(
    "group", ["*", "support", "corp:group:support", "acme:group:*", "acme:group:Support"]
)
def test_a_group_counts_only_by_its_exact_qualified_name(group: str) -> None:
    grant = {"users": ["acme:group:support"], "agents": ["coder"], "tools": ["tickets/*"]}
    assert not allowed(grant, "tickets", "x", groups=frozenset({group}))
    assert allowed(grant, "tickets", "x", groups=frozenset({"acme:group:support"}))


@pytest.mark.parametrize("agent", ["Coder", "coder ", "c*", "\u0441oder", "planner"])
def test_an_agent_counts_only_by_its_exact_name(agent: str) -> None:
    grant = {"users": ["*"], "agents": ["coder"], "tools": ["tickets/*"]}
    assert not allowed(grant, "tickets", "x", chain=(Hop("urn:x", agent, "exchange"),))


def test_a_hostile_name_costs_no_more_than_its_length() -> None:
    grant = {**EVERYONE, "tools": ["t/" + "*a" * 50 + "*b"]}
    assert not allowed(grant, "t", "a" * 200_000)
