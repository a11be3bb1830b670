"""Chains: begun by the provider's own exchange with `act`, grown here, cut by revocation."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness import Issuer, wait_for
from tests.oidc_provider.conftest import settings
from tests.oidc_provider.server import OidcProvider
from tests.provider_house import House
from tests.provider_house import house as run_house

pytestmark = pytest.mark.oidc_provider


@pytest.mark.parametrize("kind", ["es256", "opaque"])
def test_two_and_three_hops_made_here(provider: OidcProvider, house: House, kind: str) -> None:
    two = house.hand_over(
        "planner", "coder", provider.token_of("alice", resource=f"urn:gateway:{kind}")
    )
    seen = house.seen(two, "close_ticket", id=43, reason="solved")
    assert (seen["agent"], seen["prior_agents"]) == (house.agent("coder"), [house.agent("planner")])
    seen = house.seen(house.hand_over("coder", "tester", two))
    assert seen["subject"] == "acme|alice"
    assert seen["agent"] == house.agent("tester")
    assert seen["prior_agents"] == [house.agent("coder"), house.agent("planner")]


def test_the_providers_own_chain_is_believed_and_goes_on_here(
    provider: OidcProvider, house: House
) -> None:
    one = provider.exchange("planner", provider.token_of("alice"))
    two = provider.exchange("coder", one)
    seen = house.seen(two)
    assert (seen["agent"], seen["prior_agents"]) == (house.agent("coder"), [house.agent("planner")])
    decision = [record for record in house.gw.records() if record.get("name") == "read_ticket"]
    chain = [hop["evidence"] for hop in decision[-1]["chain"]]
    assert chain == ["act-claim", "act-claim"]
    three = house.hand_over("coder", "tester", two)
    seen = house.seen(three)
    assert seen["agent"] == house.agent("tester")
    assert seen["prior_agents"] == [house.agent("coder"), house.agent("planner")]


@pytest.fixture(scope="module")
def doubting(
    tmp_path_factory: pytest.TempPathFactory, provider: OidcProvider, issuer: Issuer
) -> Iterator[House]:
    """A gateway that does not believe this issuer's `act`."""
    found = settings(provider, may_assert_act=False)
    with run_house(tmp_path_factory.mktemp("doubting"), issuer, found) as running:
        yield running


def test_an_act_that_nobody_may_assert_is_dropped_and_is_no_subject_token(
    provider: OidcProvider, doubting: House
) -> None:
    token = provider.exchange("coder", provider.exchange("planner", provider.token_of("alice")))
    seen = doubting.seen(token)
    assert (seen["agent"], seen["prior_agents"]) == (doubting.agent("coder"), [])
    answer = doubting.exchange("coder", token, audience=doubting.agent("tester"))
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")


@pytest.mark.parametrize("kind", ["es256", "opaque"])
def test_revoking_the_first_token_ends_every_descendant_within_a_second(
    provider: OidcProvider, house: House, kind: str
) -> None:
    one = provider.token_of("alice", resource=f"urn:gateway:{kind}")
    two = house.hand_over("planner", "coder", one)
    three = house.hand_over("coder", "tester", two)
    assert all(house.lets_in(token) for token in (one, two, three))
    house.revoke("planner", one)
    wait_for(lambda: not any(map(house.lets_in, (one, two, three))), "the refusals", 1)
