"""One oidc-provider for the lane, one gateway in front of the tickets server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Issuer
from tests.npm import installed
from tests.oidc_provider.server import OidcProvider
from tests.provider_house import House
from tests.provider_house import house as run_house

AUDIENCES = [f"urn:gateway:{kind}" for kind in ("rs256", "es256", "eddsa", "opaque")]


@pytest.fixture(scope="session")
def packages() -> Path:
    """Where npm put the pinned packages."""
    return installed(Path(__file__).parent / "package.json")


@pytest.fixture(scope="session")
def provider(packages: Path) -> Iterator[OidcProvider]:
    """The running provider."""
    running = OidcProvider(packages)
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def issuer() -> Iterator[Issuer]:
    """A second issuer, which the gateway trusts as well."""
    running = Issuer().start()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def house(
    tmp_path_factory: pytest.TempPathFactory, provider: OidcProvider, issuer: Issuer
) -> Iterator[House]:
    """The gateway that most tests share."""
    with run_house(tmp_path_factory.mktemp("house"), issuer, settings(provider)) as running:
        yield running


def settings(provider: OidcProvider, **changes: Any) -> dict[str, Any]:
    """What docs/identity-providers/oidc-provider.md says; `changes` are laid over the issuer."""
    confidential = {"issuer": "acme", "confidential": True}
    return {
        "issuers": {
            "acme": {
                "issuer": provider.url,
                "audiences": AUDIENCES,
                "groups_claim": "groups",
                "may_assert_act": True,
                "introspection": {
                    "client_id": "gateway",
                    "client_secret": "gateway-secret-for-tests",
                },
                **changes,
            }
        },
        "agents": {
            "planner": {
                "clients": [{**confidential, "client_id": "planner"}],
                "auth": {"secret": "planner-secret-for-tests"},
                "may_hand_to": ["coder"],
            },
            "coder": {
                "clients": [{**confidential, "client_id": "coder"}],
                "auth": {"secret": "coder-secret-for-tests"},
                "may_hand_to": ["tester"],
            },
            "tester": {"auth": {"secret": "tester-secret-for-tests"}},
            "laptop": {"clients": [{"issuer": "acme", "client_id": "laptop"}]},
            "night": {"clients": [{**confidential, "client_id": "night-job"}]},
        },
        "grants": [
            {"users": ["acme:group:support"], "tools": ["tickets/*"]},
            {"users": ["acme:group:billing", "acme|night-job"], "tools": ["tickets/list_tickets"]},
            {"agents": ["planner", "coder", "laptop", "night"], "tools": ["tickets/*"]},
            {"agents": ["tester"], "tools": ["tickets/read_ticket"]},
        ],
    }
