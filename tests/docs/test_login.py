"""The page on signing in: its configuration loads, its entries are JSON, its command does what it says."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from agentgw.app.convert import authorization_servers, let_in
from agentgw.app.login_clients import agent_of_document, dynamic_agent, registered
from agentgw.config import load
from agentgw.core.redirect_uri import redirects_to
from tests.cli.test_login import answer, enter, link_of, start
from tests.docs.test_readme import ROOT, fenced
from tests.login import attacked_place
from tests.people import Visitor
from tests.sts.sts_under_test import claims_of

PAGE = (ROOT / "docs/login.md").read_text("utf-8")


def test_its_configuration_means_what_the_page_says(tmp_path: Path) -> None:
    (shown,) = fenced(PAGE, "yaml")
    file = tmp_path / "agentgw.yaml"
    file.write_text(shown, "utf-8")
    file.chmod(0o600)
    config = load(file, {"LOGIN_SECRET": "x"}, {})
    assert let_in(config) == {"desktop"}
    assert authorization_servers(config)[0] == config.public_url
    assert agent_of_document(config, "https://app.example.com/oauth/client.json") == "desktop"
    assert agent_of_document(config, "https://app.example.com/other.json") is None
    assert dynamic_agent(config) == "desktop"
    client = registered(config, "desktop")
    assert client is not None and client.public
    # Claude Code, VS Code, mcp-remote and the Inspector, as their entries here have them.
    for uri in (
        "http://localhost:8765/callback",
        "http://127.0.0.1:33418/callback",
        "http://localhost:3334/oauth/callback",
        "http://127.0.0.1:6276/oauth/callback",
    ):
        assert redirects_to(uri, client.redirect_uris)


def test_its_entries_are_json() -> None:
    names = [next(iter(json.loads(block))) for block in fenced(PAGE, "json")]
    assert names == ["mcpServers", "servers", "mcpServers"]
    remote = json.loads(fenced(PAGE, "json")[2])["mcpServers"]["gateway"]["args"]
    assert json.loads(remote[-1]) == {"client_id": "desktop"}


@pytest.mark.parametrize("more", [[], ["--resource", "tickets"]])
def test_its_command_prints_the_token(tmp_path: Path, more: list[str]) -> None:
    _, block = fenced(PAGE, "sh")  # the first one is run by test_inspector_login
    program, name, _, *arguments = shlex.split(block)
    assert (program, name) == ("agentgw", "login")
    with attacked_place(tmp_path) as here, Visitor() as alice:
        with start(here.url, *arguments, *more) as running:
            link, _ = link_of(running)
            answer(alice, enter(here, alice, link), "allow")
            out, _ = running.communicate(timeout=60)
    expected = "/mcp/tickets" if more else "/mcp"
    assert claims_of(out.strip())["aud"] == here.url + expected
