from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgw.core import actor
from agentgw.core.actor import AgentRules, ClientRule
from agentgw.core.claims import IssuerRules
from agentgw.core.principal import Hop
from agentgw.errors import InvalidToken

US = "https://gw.example.com"
ACME = "https://idp.example.com"
PLANNER = AgentRules("planner", f"{US}/a2a/planner", (ClientRule("acme", "planner", True),))
CODER = AgentRules("coder", f"{US}/a2a/coder", (ClientRule("acme", "coder"),), max_depth=3)
SHALLOW = AgentRules("shallow", f"{US}/a2a/shallow", (ClientRule("other", "s"),), max_depth=1)
PLAIN = IssuerRules("acme", ACME, {})
ASSERTING = IssuerRules("acme", ACME, {}, may_assert_act=True)
OTHER = IssuerRules("other", "https://other.example", {})
INDEX = actor.index_agents((PLANNER, CODER, SHALLOW), (PLAIN, OTHER), US)


def nest(*subs: str, **members: Any) -> dict[str, Any] | None:
    act: dict[str, Any] | None = None
    for sub in reversed(subs):
        act = {"sub": sub, **members} | ({} if act is None else {"act": act})
    return act


def chain(claims: dict[str, Any], rules: IssuerRules = PLAIN) -> tuple[Hop, ...]:
    return actor.determine_actors(claims, rules, INDEX).chain


def test_a_confidential_client_is_its_agent_by_client_auth() -> None:
    found = actor.determine_actors({"azp": "planner"}, PLAIN, INDEX)
    assert found.chain == (Hop(PLANNER.id, "planner", "client-auth"),)
    assert (found.presenter, found.client_id) == (PLANNER.id, "planner")
    actor.check_evidence(found.chain, PLAIN)


def test_a_bare_client_name_is_refused_unless_the_issuer_accepts_it() -> None:
    bare = chain({"azp": "coder"})
    assert bare == (Hop(CODER.id, "coder", "client-claim"),)
    with pytest.raises(InvalidToken, match="confidential"):
        actor.check_evidence(bare, PLAIN)
    accepting = IssuerRules("acme", ACME, {}, accept_evidence=frozenset({"client-claim"}))
    actor.check_evidence(bare, accepting)


def test_the_issuers_word_on_client_authentication_counts_only_where_accepted() -> None:
    accepting = IssuerRules("acme", ACME, {}, accept_evidence=frozenset({"client-auth"}))
    claims = {"azp": "coder", "azpacr": "1"}
    assert chain(claims)[0].evidence == "client-claim"
    assert chain(claims, accepting)[0].evidence == "client-auth"
    assert chain({"azp": "coder", "azpacr": "0"}, accepting)[0].evidence == "client-claim"


def test_an_unregistered_client_is_nobody_but_never_refused_here() -> None:
    found = chain({"client_id": "stranger"})
    assert found == (Hop("client:acme|stranger", None, "client-claim"),)
    actor.check_evidence(found, PLAIN)


def test_a_client_of_the_same_name_at_another_issuer_is_nobody() -> None:
    assert chain({"azp": "planner"}, OTHER)[0] == Hop("client:other|planner", None, "client-claim")


def test_a_disabled_agent_is_nobody_and_noted() -> None:
    off = AgentRules("planner", PLANNER.id, PLANNER.clients, disabled=True)
    found = actor.determine_actors(
        {"azp": "planner"}, PLAIN, actor.index_agents((off,), (PLAIN,), US)
    )
    assert found.chain == (Hop(PLANNER.id, None, "client-auth"),)
    assert found.notes == ("agent planner is disabled",)


@pytest.mark.parametrize(
    "claims",
    [
        {"azp": "planner", "client_id": "coder"},
        {"azp": "planner", "appid": "coder"},
        {"azp": ["planner"]},
        {"azp": ""},
        {"client_id": None},
        {"client_id": "a\nb"},
        {"client_id": "x" * 300},
        {},
    ],
)
def test_refuses_clients_that_conflict_or_are_missing(claims: dict[str, Any]) -> None:
    with pytest.raises(InvalidToken):
        chain(claims)


def test_agreeing_client_claims_are_one_client() -> None:
    assert actor.client_of({"azp": "p", "client_id": "p", "cid": "p"}) == "p"


def test_the_outermost_act_of_an_asserting_issuer_is_the_agent() -> None:
    found = actor.determine_actors(
        {"azp": "web", "act": nest("coder", "planner")}, ASSERTING, INDEX
    )
    assert found.chain == (
        Hop(CODER.id, "coder", "act-claim"),
        Hop(PLANNER.id, "planner", "act-claim"),
    )
    assert found.presenter == "client:acme|web"
    actor.check_evidence(found.chain, ASSERTING)


def test_an_act_may_name_our_id_or_another_issuers_client() -> None:
    ours = nest(PLANNER.id, iss=US)
    assert chain({"act": ours}, ASSERTING)[0].agent == "planner"
    assert chain({"act": nest(PLANNER.id)}, ASSERTING)[0].agent == "planner"
    assert chain({"act": nest("s", iss="https://other.example")}, ASSERTING)[0].agent == "shallow"
    foreign = nest("planner", iss="https://evil.example")
    assert chain({"act": foreign}, ASSERTING)[0].agent is None
    assert chain({"act": nest(PLANNER.id, iss="https://evil.example")}, ASSERTING)[0].agent is None


@pytest.mark.parametrize(
    "act",
    [
        None, [], "coder", {}, {"sub": 7}, {"sub": ""}, {"sub": "a\n"}, {"sub": "coder", "iss": 7},
        {"sub": "coder", "act": "planner"}, {"sub": "coder", "act": {"iss": ACME}},
        nest("coder", "coder"),
        nest("coder", CODER.id),
        nest("a", "b", "c", "d", "e"),
        nest("coder", "a", "b", "c"),
        nest("a", "b", "c", "coder"),
        nest(*(f"a{number}" for number in range(64))),
    ],
)  # fmt: skip
def test_refuses_acts_that_are_junk_cycles_or_too_deep(act: Any) -> None:
    with pytest.raises(InvalidToken):
        chain({"azp": "planner", "act": act}, ASSERTING)


def test_the_smallest_depth_of_the_chain_is_the_limit() -> None:
    assert len(chain({"act": nest("a", "b", "c", "d")}, ASSERTING)) == 4
    assert len(chain({"act": nest("coder", "a", "b")}, ASSERTING)) == 3
    with pytest.raises(InvalidToken):
        chain({"act": {"sub": "a", "act": {"sub": "s", "iss": "https://other.example"}}}, ASSERTING)


def test_an_act_nobody_may_assert_is_dropped_and_noted_where_the_client_is_proven() -> None:
    found = actor.determine_actors({"azp": "planner", "act": nest("coder")}, PLAIN, INDEX)
    assert found.chain == (Hop(PLANNER.id, "planner", "client-auth"),)
    assert found.dropped_act
    assert found.notes == ("act dropped: its issuer may not assert it",)


@pytest.mark.parametrize("client", ["coder", "stranger"])
def test_an_act_nobody_may_assert_is_refused_where_the_client_is_not_proven(client: str) -> None:
    with pytest.raises(InvalidToken, match="may_assert_act"):
        chain({"azp": client, "act": nest("planner")})


def test_may_act_binds_whoever_wrote_it() -> None:
    hops = chain({"azp": "planner"})
    for value in (
        {"sub": "planner"},
        {"sub": PLANNER.id, "iss": US},
        {"sub": "planner", "iss": ACME},
    ):
        named = actor.may_act_of({"may_act": value}, "acme", ACME, INDEX)
        assert named == PLANNER.id
        actor.check_may_act(named, hops)
    for value in ({"sub": "coder"}, {"sub": "planner", "iss": "https://other.example"}):
        with pytest.raises(InvalidToken):
            actor.check_may_act(actor.may_act_of({"may_act": value}, "acme", ACME, INDEX), hops)
    actor.check_may_act(actor.may_act_of({}, "acme", ACME, INDEX), hops)


@pytest.mark.parametrize("value", [None, "planner", [], {}, {"sub": None}])
def test_a_may_act_that_cannot_be_read_refuses_the_token(value: Any) -> None:
    with pytest.raises(InvalidToken):
        actor.may_act_of({"may_act": value}, "acme", ACME, INDEX)


def test_two_agents_cannot_share_a_client_or_a_name() -> None:
    twin = AgentRules("twin", f"{US}/a2a/twin", PLANNER.clients)
    with pytest.raises(ValueError, match="share"):
        actor.index_agents((PLANNER, twin), (), US)
    with pytest.raises(ValueError, match="two agents"):
        actor.index_agents((PLANNER, PLANNER), (), US)


def test_hops_of_the_ledger_follow_todays_configuration() -> None:
    hops = (Hop(CODER.id, "coder", "exchange"), Hop(PLANNER.id, "planner", "client-auth"))
    today = actor.index_agents((PLANNER,), (), US)
    assert actor.refresh_hops(hops, today) == (
        Hop(CODER.id, None, "exchange"),
        Hop(PLANNER.id, "planner", "client-auth"),
    )


JUNK = st.recursive(
    st.none()
    | st.integers()
    | st.text(max_size=5)
    | st.sampled_from(["planner", "coder", ACME, US]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["sub", "iss", "act"]), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(
    st.dictionaries(st.sampled_from(["act", "azp", "client_id", "may_act"]), JUNK), st.booleans()
)
def test_any_claims_give_a_chain_or_a_refusal(claims: dict[str, Any], asserting: bool) -> None:
    rules = ASSERTING if asserting else PLAIN
    try:
        found = actor.determine_actors(claims, rules, INDEX)
        actor.may_act_of(claims, "acme", ACME, INDEX)
    except InvalidToken:
        return
    assert 1 <= len(found.chain) <= 4
    assert len({hop.id for hop in found.chain}) == len(found.chain)
    assert asserting or all(hop.evidence != "act-claim" for hop in found.chain)
