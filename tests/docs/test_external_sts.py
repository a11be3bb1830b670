"""docs/external-sts.md: its configurations load, and ask for what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agentgw.app.convert import authorization_servers, exchange_rules
from agentgw.app.external_sts import external_rules
from agentgw.config import load
from tests.docs.test_readme import ROOT, fenced

PAGE = (ROOT / "docs/external-sts.md").read_text("utf-8")
HEAD = "version: 1\npublic_url: https://gw.example.com\n"


YAML = fenced(PAGE, "yaml")


@pytest.mark.parametrize("text", [text for text in YAML if "exchange:" in text and "url:" in text])
def test_every_configuration_of_the_page_loads(text: str, tmp_path: Path) -> None:
    file = tmp_path / "agentgw.yaml"
    file.write_text(text if text.startswith("version") else HEAD + text)
    file.chmod(0o600)
    wanted = re.findall(r"\$\{env:(\w+)\}", text)
    config = load(file, {"HOME": str(tmp_path), **dict.fromkeys(wanted, "a-secret-for-tests")}, {})
    exchange = config.servers["tickets"].auth.exchange
    assert exchange is not None
    rules = external_rules(config, "tickets", exchange)
    assert rules.audience == exchange.expected_audience and rules.scope


def test_the_issuer_of_the_page_gives_assertions_that_are_taken(tmp_path: Path) -> None:
    (text,) = [text for text in YAML if "id_jag" in text]
    file = tmp_path / "agentgw.yaml"
    file.write_text(HEAD + text)
    file.chmod(0o600)
    config = load(file, {"HOME": str(tmp_path), "VISITOR_SECRET": "a-secret-for-tests"}, {})
    assert exchange_rules(config).assertions_of == {"partner"}
    assert config.public_url in authorization_servers(config)


def test_the_page_says_which_providers_were_run() -> None:
    providers = PAGE.partition("## Providers")[2]
    named = re.findall(r"\*\*(\w+)\*\* \((run|not run)", providers)
    assert named == [("Keycloak", "run"), ("Entra", "not run"), ("Okta", "not run")]
