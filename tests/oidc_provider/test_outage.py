"""The provider hangs, and comes back with other keys: the gateway goes on by itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness import Issuer, wait_for
from tests.oidc_provider.conftest import settings
from tests.oidc_provider.server import OidcProvider
from tests.provider_house import House
from tests.provider_house import house as run_house

pytestmark = pytest.mark.oidc_provider
COOL_DOWN = 45.0


def test_while_it_hangs_known_keys_go_on_and_opaque_tokens_not_seen_yet_are_refused(
    provider: OidcProvider, house: House
) -> None:
    fresh = provider.token_of("alice")
    known = provider.token_of("alice", resource="urn:gateway:opaque")
    unseen = provider.token_of("alice", resource="urn:gateway:opaque")
    assert house.lets_in(provider.token_of("alice"))
    assert house.lets_in(known)
    with provider.hanging():
        assert house.lets_in(fresh)
        assert house.lets_in(known)
        assert "could not be asked" in house.why(house.call(unseen))
    wait_for(lambda: house.lets_in(unseen), "the answer", 10)


@pytest.fixture
def another(provider: OidcProvider) -> Iterator[OidcProvider]:
    """A provider that may be killed."""
    running = OidcProvider(provider.packages)
    running.start()
    yield running
    running.stop()


def test_a_provider_that_comes_back_with_other_keys_is_found_again(
    another: OidcProvider, issuer: Issuer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with run_house(tmp_path_factory.mktemp("again"), issuer, settings(another)) as house:
        seen, unseen = (another.token_of("alice") for _ in range(2))
        assert house.lets_in(seen)
        another.stop()
        assert house.lets_in(seen)
        another.start()
        new = another.token_of("alice")
        wait_for(lambda: house.lets_in(new), "the new keys", COOL_DOWN)
        assert not house.lets_in(unseen)
