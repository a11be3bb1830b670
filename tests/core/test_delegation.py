from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgw.core.delegation import (
    Actor,
    BadDelegation,
    act_claim,
    depth,
    has_cycle,
    may_act_claim,
    parse_act,
    parse_may_act,
)
from agentgw.core.principal import Hop

GATEWAY = "https://gw.example.com"


def hop(name: str) -> Hop:
    return Hop(f"{GATEWAY}/a2a/{name}", name, "exchange")


def nested(levels: int) -> dict[str, Any]:
    act: dict[str, Any] = {"sub": "agent-0"}
    for number in range(1, levels):
        act = {"sub": f"agent-{number}", "act": act}
    return act


def test_the_outermost_act_is_the_current_agent() -> None:
    assert act_claim((hop("coder"), hop("planner")), GATEWAY) == {
        "iss": GATEWAY,
        "sub": f"{GATEWAY}/a2a/coder",
        "sub_profile": "ai_agent",
        "act": {"iss": GATEWAY, "sub": f"{GATEWAY}/a2a/planner", "sub_profile": "ai_agent"},
    }


def test_an_empty_chain_has_no_act() -> None:
    assert act_claim((), GATEWAY) is None


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=6))
def test_a_chain_reads_back_as_it_was_written(names: list[str]) -> None:
    chain = tuple(map(hop, names))
    actors = parse_act(act_claim(chain, GATEWAY), max_depth=6)
    assert actors == tuple(Actor(GATEWAY, item.id) for item in chain)
    assert depth(chain) == len(actors)
    assert has_cycle(chain) == (len(set(names)) < len(names))


def test_accepts_as_many_levels_as_allowed_and_no_more() -> None:
    assert len(parse_act(nested(4), max_depth=4)) == 4
    with pytest.raises(BadDelegation, match="4 levels"):
        parse_act(nested(5), max_depth=4)
    with pytest.raises(BadDelegation):
        parse_act(nested(20_000), max_depth=4)


@pytest.mark.parametrize(
    "act",
    [
        None, [], "planner", 7, {}, {"sub": ""}, {"sub": 7}, {"sub": None}, {"sub": ["planner"]},
        {"sub": "x" * 3000}, {"sub": "planner", "iss": 7}, {"sub": "planner", "iss": ""},
        {"sub": "planner", "act": None}, {"sub": "planner", "act": "coder"},
        {"sub": "planner", "act": {"iss": GATEWAY}}, {"sub": "planner", "act": []},
    ],
)  # fmt: skip
def test_refuses_an_act_that_names_nobody(act: object) -> None:
    with pytest.raises(BadDelegation):
        parse_act(act, max_depth=4)


def test_leaves_behind_what_means_nothing_inside_an_act() -> None:
    act = {"sub": "planner", "exp": 9, "scope": "admin", "aud": "x", "may_act": {"sub": "y"}}
    assert parse_act(act, max_depth=4) == (Actor(None, "planner"),)


def test_may_act_reads_back_as_it_was_written() -> None:
    claim = may_act_claim(f"{GATEWAY}/a2a/coder", GATEWAY)
    assert claim == {"iss": GATEWAY, "sub": f"{GATEWAY}/a2a/coder"}
    assert parse_may_act(claim) == Actor(GATEWAY, f"{GATEWAY}/a2a/coder")


@pytest.mark.parametrize("may_act", [None, "coder", [{"sub": "coder"}], {}, {"sub": ["coder"]}])
def test_refuses_a_may_act_that_names_nobody(may_act: object) -> None:
    with pytest.raises(BadDelegation):
        parse_may_act(may_act)
