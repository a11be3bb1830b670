"""docs/stdio-servers.md: its servers are valid, and its table and numbers are those of the gateway."""

from __future__ import annotations

import re

import pytest
import yaml

from agentgw.app.restart import COMMAND
from agentgw.config.model import Limits
from agentgw.config.sandbox import KINDS
from agentgw.config.servers import Server
from agentgw.launch.landlock import NEEDED_ABI
from agentgw.upstream.child import INHERITED
from tests.docs.test_readme import ROOT, fenced

PAGE = (ROOT / "docs/stdio-servers.md").read_text("utf-8")
SERVERS = [
    (name, server)
    for text in fenced(PAGE, "yaml")
    for name, server in yaml.safe_load(text)["servers"].items()
]


@pytest.mark.parametrize(("name", "server"), SERVERS)
def test_every_server_of_the_page_is_valid(name: str, server: object) -> None:
    assert Server.model_validate(server).command


def test_every_kind_of_sandbox_is_shown_and_has_its_column() -> None:
    shown = {Server.model_validate(server).sandbox.kind for _, server in SERVERS}
    assert shown | {"none"} == set(KINDS)
    (head,) = re.findall(r"^\| \| (.+) \|$", PAGE, re.M)
    assert head.replace("`", "").split(" | ") == list(KINDS)


def test_the_numbers_are_those_of_the_gateway() -> None:
    limits = Limits()
    assert f"`limits.processes_per_server` ({limits.processes_per_server})" in PAGE
    assert f"`limits.process_idle` ({limits.process_idle:g} seconds)" in PAGE
    assert NEEDED_ABI == 3


def test_what_is_inherited_and_what_waits_for_a_restart_is_told() -> None:
    for name in INHERITED - {"SYSTEMROOT"}:
        assert f"`{name}`" in PAGE
    last = PAGE.rstrip().splitlines()[-1]
    assert re.findall(r"`(\w+)`", last) == list(COMMAND)
