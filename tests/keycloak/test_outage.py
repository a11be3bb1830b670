"""Keycloak hangs, comes back, changes its keys, or loses all of them: the gateway goes on by itself."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.harness import Issuer, wait_for
from tests.keycloak.conftest import settings
from tests.keycloak.server import Keycloak
from tests.provider_house import House
from tests.provider_house import house as run_house

pytestmark = pytest.mark.keycloak
COOL_DOWN = 45.0
"""Unknown keys are asked for at most every 30 seconds; and some for a busy machine."""

FORGER = rsa.generate_private_key(65537, 2048)


@contextmanager
def hanging(keycloak: Keycloak) -> Iterator[None]:
    """Keycloak accepts connections and answers nothing."""
    keycloak.hang()
    try:
        yield
    finally:
        keycloak.signal(signal.SIGCONT)


def forged(keycloak: Keycloak) -> str:
    """A token with every claim right, under a key that Keycloak does not have."""
    now = int(time.time())
    claims = {
        "iss": keycloak.url, "aud": "agentgw", "sub": "x", "azp": "planner", "typ": "Bearer",
        "preferred_username": "alice", "groups": ["support"], "scope": "tickets.read",
        "iat": now, "exp": now + 300,
    }  # fmt: skip
    return jwt.encode(claims, FORGER, "RS256", headers={"kid": "nobody-knows-me"})


def test_known_keys_go_on_and_unknown_ones_are_refused_while_keycloak_hangs(
    keycloak: Keycloak, house: House
) -> None:
    house.seen(keycloak.token_of("alice", "planner"))
    fresh = [keycloak.token_of("alice", "planner") for _ in range(2)]
    with hanging(keycloak):
        assert house.seen(fresh[0])["agent"] == house.agent("planner")
        asked = time.monotonic()
        assert "key" in house.why(house.call(forged(keycloak)))
        assert time.monotonic() - asked < 10
        handed = house.hand_over("planner", "coder", fresh[1])
        assert house.seen(handed)["agent"] == house.agent("coder")
    assert house.seen(keycloak.token_of("alice", "planner"))["agent"] == house.agent("planner")


def test_a_new_key_is_found_and_tokens_under_the_old_one_stay_good(
    keycloak: Keycloak, house: House
) -> None:
    old = keycloak.token_of("alice", "planner")
    keycloak.rotate_keys()
    new = keycloak.token_of("alice", "planner")
    assert jwt.get_unverified_header(new)["kid"] != jwt.get_unverified_header(old)["kid"]
    wait_for(lambda: house.call(new).status_code == 200, "the new key", COOL_DOWN)
    assert house.seen(old)["subject"] == house.seen(new)["subject"]


def test_a_gateway_that_starts_while_keycloak_hangs_recovers_by_itself(
    keycloak: Keycloak, issuer: Issuer, tmp_path: Path
) -> None:
    token = keycloak.token_of("alice", "planner")
    with hanging(keycloak):
        with run_house(tmp_path, issuer, settings(keycloak, issuer)) as house:
            refused = house.why(house.call(token))
            assert "not available" in refused
            keycloak.signal(signal.SIGCONT)
            wait_for(lambda: house.call(token).status_code == 200, "the keys", COOL_DOWN)


def test_a_keycloak_that_was_killed_and_has_lost_its_keys_is_found_again(
    keycloak: Keycloak, house: House
) -> None:
    before = [keycloak.token_of("alice", "planner") for _ in range(2)]
    keycloak.stop()
    assert house.seen(before[0])["agent"] == house.agent("planner")
    assert house.call(forged(keycloak)).status_code == 401
    assert keycloak.start()
    wait_for(
        lambda: house.call(keycloak.token_of("alice", "planner")).status_code == 200,
        "the new keys",
        COOL_DOWN,
    )
    assert "key" in house.why(house.call(before[1]))
