"""The suite's auth scenarios for clients, at servers that speak 2025-11-25: the gateway is the client."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.conformance.client_role import ClientRole
from tests.conformance.expectations import FAILS, judge
from tests.conformance.test_client_2026 import ALSO_2025, ONLY_2026
from tests.harness import ROOT
from tests.npm import installed

pytestmark = pytest.mark.conformance

EXTENSIONS = (
    "auth/client-credentials-jwt",
    "auth/client-credentials-basic",
    "auth/enterprise-managed-authorization",
    "auth/dpop",
    "auth/dpop-nonce",
    "auth/wif-jwt-bearer",
)
ONLY_2025_03 = (
    "auth/2025-03-26-oauth-metadata-backcompat",
    "auth/2025-03-26-oauth-endpoint-fallback",
)


@pytest.mark.parametrize("scenario", [*ALSO_2025, *EXTENSIONS])
def test_a_scenario_ends_as_it_must(scenario: str, client: ClientRole, tmp_path: Path) -> None:
    judge(scenario, client.run(scenario, "2025-11-25", tmp_path))


@pytest.mark.parametrize("scenario", ONLY_2025_03)
def test_a_scenario_of_an_older_wire_ends_as_it_must(
    scenario: str, client: ClientRole, tmp_path: Path
) -> None:
    judge(scenario, client.run(scenario, "2025-03-26", tmp_path))


def test_no_scenario_of_the_suite_is_left_out() -> None:
    packages = installed(ROOT / "tests" / "conformance" / "package.json")
    program = packages / "node_modules" / ".bin" / "conformance"
    said = subprocess.run(
        [str(program), "list"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "NO_COLOR": "1"},
    ).stdout
    every = [*ALSO_2025, *ONLY_2026, *EXTENSIONS, *ONLY_2025_03]
    assert sorted(re.findall(r"- (auth/\S+)", said)) == sorted(every)


def test_every_expected_failure_stands_in_the_documents_with_its_reason() -> None:
    page = (ROOT / "docs" / "upstream-credentials.md").read_text()
    for scenario, expected in FAILS.items():
        name = re.sub(r"-(default|var\d)$", "-*", scenario.removeprefix("auth/"))
        assert f"`{name}`" in page, scenario
        assert expected.reason in page, scenario
