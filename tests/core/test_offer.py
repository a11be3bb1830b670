"""What is offered at the consent page, and what a posted page can mean of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgw.core.exchange_rules import ExchangeAgent
from agentgw.core.offer import (
    DAY,
    HOUR,
    Offer,
    OfferedServer,
    OfferedTool,
    choose,
    lives,
    scopes_within,
    usual_life,
    within_reach,
)

OFFER = Offer(
    (
        OfferedServer(
            "tickets",
            (
                OfferedTool("read", "", frozenset({"t.read"})),
                OfferedTool("close", "", frozenset({"t.write"})),
            ),
        ),
        OfferedServer("time", (OfferedTool("now", "", frozenset()),)),
    ),
    ("coder", "tester"),
)
FIELDS = [
    "tool:tickets/read", "tool:tickets/close", "tool:time/now", "tool:time/read", "tool:other/x",
    "server:tickets", "server:other", "agent:coder", "agent:root", "tool:", "server:", "x",
]  # fmt: skip


@given(st.sets(st.sampled_from(FIELDS)))
def test_a_choice_is_what_was_checked_of_what_was_offered(checked: set[str]) -> None:
    choice = choose({**dict.fromkeys(checked, "on"), "life": str(HOUR)}, OFFER, DAY)
    assert choice is not None
    assert choice.consent.tools == {
        name for name in ("tickets/read", "tickets/close", "time/now") if f"tool:{name}" in checked
    }
    assert choice.consent.servers == {"tickets"} & {name[7:] for name in checked}
    assert choice.consent.hand_to == {"coder"} & {name[6:] for name in checked}
    needed = {"tickets/read": "t.read", "tickets/close": "t.write"}
    assert choice.scopes == {needed[t] for t in choice.consent.tools if t in needed}


@pytest.mark.parametrize("life", [None, "", "0", "60", "-3600", "3600 ", "٣٦٠٠", str(2 * DAY)])
def test_a_life_that_was_not_offered_is_no_choice(life: str | None) -> None:
    form = {} if life is None else {"life": life}
    assert choose(form, OFFER, DAY) is None


@given(st.integers(60, 366 * DAY), st.one_of(st.none(), st.integers(1, 400 * DAY)))
def test_the_proposed_life_is_one_of_those_offered(longest: int, before: int | None) -> None:
    offered = lives(longest)
    assert max(offered) == longest and list(offered) == sorted(set(offered))
    assert usual_life(longest, before) in offered


def test_work_reaches_agents_over_hand_overs_and_no_disabled_ones() -> None:
    def agent(name: str, *heirs: str, disabled: bool = False) -> ExchangeAgent:
        return ExchangeAgent(name, f"x/{name}", disabled, may_hand_to=frozenset(heirs))

    agents = {
        "a": agent("a", "b", "off", "gone"),
        "b": agent("b", "c", "a"),
        "c": agent("c", "b"),
        "off": agent("off", "d", disabled=True),
        "d": agent("d"),
    }
    assert within_reach("a", agents) == ("b", "c")
    assert within_reach("d", agents) == ()
    assert within_reach("nobody", agents) == ()


def test_scopes_that_mean_nothing_here_ask_for_a_login_and_others_for_themselves() -> None:
    known = ("t.read", "t.write")
    assert scopes_within(None, known) == frozenset(known)
    assert scopes_within(frozenset({"openid", "offline_access"}), known) == frozenset(known)
    assert scopes_within(frozenset({"t.read", "openid"}), known) == {"t.read"}
    assert scopes_within(frozenset({"t.read"}), ()) == frozenset()
