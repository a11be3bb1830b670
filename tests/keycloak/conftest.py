"""One Keycloak for the lane, one gateway in front of the tickets server for most of its tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness import Issuer
from tests.keycloak.server import Keycloak, jdks
from tests.keycloak.server import keycloak as run_keycloak
from tests.provider_house import House
from tests.provider_house import house as run_house


@pytest.fixture(scope="session")
def keycloak(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keycloak]:
    """The running provider. What a test does to it, it undoes; keys may have been rotated."""
    if not jdks():
        pytest.skip("no JDK of 17 or newer is installed")
    with run_keycloak(tmp_path_factory.mktemp("keycloak")) as running:
        yield running


@pytest.fixture(scope="session")
def issuer() -> Iterator[Issuer]:
    """A second issuer, which the gateway trusts as well."""
    running = Issuer().start()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def house(
    tmp_path_factory: pytest.TempPathFactory, keycloak: Keycloak, issuer: Issuer
) -> Iterator[House]:
    """The gateway that most tests share."""
    with run_house(tmp_path_factory.mktemp("house"), issuer, settings(keycloak, issuer)) as running:
        yield running


def settings(keycloak: Keycloak, issuer: Issuer) -> dict[str, Any]:
    """What docs/identity-providers/keycloak.md says, for the realm of realm.json."""
    return {
        "issuers": {
            "acme": {
                "issuer": keycloak.url,
                "audiences": ["agentgw"],
                "groups_claim": "groups",
                "user_claim": "preferred_username",
            },
            "other": {"issuer": issuer.url, "audiences": ["agentgw"], "groups_claim": "groups"},
        },
        "agents": {
            "planner": {
                "clients": [{"issuer": "acme", "client_id": "planner", "confidential": True}],
                "auth": {"secret": "planner-secret-for-tests"},
                "may_hand_to": ["coder"],
            },
            "coder": {"auth": {"secret": "coder-secret-for-tests"}, "may_hand_to": ["tester"]},
            "tester": {"auth": {"secret": "tester-secret-for-tests"}},
            "laptop": {"clients": [{"issuer": "acme", "client_id": "laptop-agent"}]},
            "night": {
                "clients": [{"issuer": "acme", "client_id": "night-job", "confidential": True}]
            },
        },
        "grants": [
            {"users": ["acme:group:support"], "tools": ["tickets/*"]},
            {"users": ["acme:group:billing"], "tools": ["tickets/list_tickets"]},
            {"users": ["acme|service-account-night-job"], "tools": ["tickets/list_tickets"]},
            {"agents": ["planner", "coder", "laptop", "night"], "tools": ["tickets/*"]},
            {"agents": ["tester"], "tools": ["tickets/read_ticket"]},
        ],
    }
