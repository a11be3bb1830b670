from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentgw.core.delegation import act_claim, has_cycle, may_act_claim
from agentgw.core.principal import Hop

GATEWAY = "https://gw.example.com"


def hop(name: str) -> Hop:
    return Hop(f"{GATEWAY}/a2a/{name}", name, "exchange")


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
def test_every_hop_stands_in_the_act_and_in_its_order(names: list[str]) -> None:
    chain = tuple(map(hop, names))
    act = act_claim(chain, GATEWAY)
    found = []
    while act is not None:
        found.append((act["iss"], act["sub"]))
        act = act.get("act")
    assert found == [(GATEWAY, item.id) for item in chain]
    assert has_cycle(chain) == (len(set(names)) < len(names))


def test_may_act_names_one_agent() -> None:
    claim = may_act_claim(f"{GATEWAY}/a2a/coder", GATEWAY)
    assert claim == {"iss": GATEWAY, "sub": f"{GATEWAY}/a2a/coder"}
