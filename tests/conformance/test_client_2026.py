"""The suite's auth scenarios for clients, at servers that speak 2026-07-28: the gateway is the client."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.client_role import ClientRole
from tests.conformance.expectations import judge

pytestmark = pytest.mark.conformance

ALSO_2025 = (
    "auth/metadata-default",
    "auth/metadata-var1",
    "auth/metadata-var2",
    "auth/metadata-var3",
    "auth/basic-cimd",
    "auth/scope-from-www-authenticate",
    "auth/scope-from-scopes-supported",
    "auth/scope-omitted-when-undefined",
    "auth/scope-step-up",
    "auth/scope-retry-limit",
    "auth/token-endpoint-auth-basic",
    "auth/token-endpoint-auth-post",
    "auth/token-endpoint-auth-none",
    "auth/pre-registration",
)
ONLY_2026 = (
    "auth/resource-mismatch",
    "auth/offline-access-scope",
    "auth/offline-access-not-supported",
    "auth/authorization-server-migration",
    "auth/iss-supported",
    "auth/iss-not-advertised",
    "auth/iss-supported-missing",
    "auth/iss-wrong-issuer",
    "auth/iss-unexpected",
    "auth/iss-normalized",
    "auth/metadata-issuer-mismatch",
)


@pytest.mark.parametrize("scenario", [*ALSO_2025, *ONLY_2026])
def test_a_scenario_ends_as_it_must(scenario: str, client: ClientRole, tmp_path: Path) -> None:
    judge(scenario, client.run(scenario, "2026-07-28", tmp_path))


def test_the_client_id_shown_is_the_url_of_our_own_document(
    client: ClientRole, tmp_path: Path
) -> None:
    run = client.run("auth/basic-cimd", "2026-07-28", tmp_path)
    shown = [one["details"] for one in run.checks if one["id"] == "cimd-client-id-used"]
    assert [each["actualClientId"] for each in shown] == [f"{client.gateway_url}/oauth/client.json"]
