"""docs/identity-providers/oidc-provider.md, command by command."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.test_readme import fenced
from tests.harness import ROOT, Issuer
from tests.oidc_provider.server import OidcProvider
from tests.provider_house import house as run_house
from tests.provider_house import page_settings, run_commands

pytestmark = pytest.mark.oidc_provider
PAGE = ROOT / "docs/identity-providers/oidc-provider.md"


def test_whoever_follows_the_page_lets_users_of_the_provider_in(
    provider: OidcProvider, issuer: Issuer, tmp_path: Path
) -> None:
    replaced = {"https://idp.example.com": provider.url}
    settings = page_settings(
        PAGE,
        {
            **replaced,
            "${env:GATEWAY_SECRET}": "gateway-secret-for-tests",
            "${env:PLANNER_SECRET}": "planner-secret-for-tests",
        },
    )
    (try_it,) = fenced(PAGE.read_text("utf-8"), "sh")
    with run_house(tmp_path, issuer, settings) as house:
        for resource in ("urn:gateway:es256", "urn:gateway:opaque"):
            assert house.tools(provider.token_of("alice", resource=resource)) == [
                "tickets__read_ticket"
            ]
        assert not house.lets_in(provider.token_of("bob"))
        said = run_commands(
            try_it, tmp_path, replaced, {"NIGHT_JOB_SECRET": "night-job-secret-for-tests"}
        )
        assert "night" in said and "FAILED" not in said
