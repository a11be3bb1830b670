"""docs/upstream-credentials.md: its configurations load, and its table names every mode as records do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from agentgw.config import load
from agentgw.config.servers import MODES, Server, ServerAuth
from agentgw.core.record import Assurance
from tests.docs.test_readme import ROOT, fenced

PAGE = (ROOT / "docs/upstream-credentials.md").read_text("utf-8")
YAML = fenced(PAGE, "yaml")
HEAD = """
version: 1
public_url: https://gw.example.com
issuers:
  acme: {issuer: https://idp.example.com, audiences: [agentgw]}
agents:
  night-job: {auth: {secret: "${env:NIGHT_SECRET}"}, client_credentials: {}}
servers:
  notes: {url: https://notes.example.com/mcp, auth: {mode: oauth, oauth: {}}}
"""


@pytest.mark.parametrize("text", YAML)
def test_every_configuration_of_the_page_loads(text: str, tmp_path: Path) -> None:
    file = tmp_path / "agentgw.yaml"
    file.write_text(text if text.startswith("version") else HEAD + text)
    file.chmod(0o600)
    wanted = re.findall(r"\$\{env:(\w+)\}", HEAD + text)
    config = load(file, {"HOME": str(tmp_path), **dict.fromkeys(wanted, "a-secret-for-tests")}, {})
    assert config.servers


def test_the_table_names_every_mode_and_what_the_record_says() -> None:
    rows = re.findall(r"^\| `(\w+)`.*\| (`[^|]*`) \|$", PAGE, re.MULTILINE)[1:]
    assert [mode for mode, _ in rows] == list(MODES)
    for mode, said in rows:
        words = re.findall(r"`([\w-]+)`", said)
        assert set(words) <= set(get_args(Assurance))
        assert (words == ["token"]) == (mode == "token")
    by_default = Server(url="https://a.example", auth=ServerAuth()).chain_assurance
    assert by_default == "token"
