"""A folder to write configurations in, and the example of the documentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from agentgw.config import Config, load
from agentgw.errors import ConfigError

EXAMPLE = """\
version: 1
public_url: https://gw.example.com
issuers:
  acme:
    issuer: https://idp.example.com/realms/acme
    audiences: [https://gw.example.com/mcp]
    tolerated_audiences: [account]
    groups_claim: groups
agents:
  planner: {owner: platform@example.com, clients: [{issuer: acme, client_id: planner, confidential: true}], may_hand_to: [coder]}
  coder:   {owner: platform@example.com, auth: {jwks: file:coder.jwks.json}, max_depth: 3}
servers:
  time:    {command: mcp-server-time}
  tickets: {url: https://tickets.example.com/mcp, auth: {mode: token, audience: https://tickets.example.com/mcp},
            tools: {close_ticket: {scope: tickets.write, approve: true}}}
grants:
  - {users: ["acme:group:support"], tools: ["time/*", "tickets/read_*"]}
  - {agents: [planner, coder], tools: ["time/*", "tickets/*"]}
  - {users: ["acme|alice"], tools: [tickets/close_ticket], when: "args.priority in ['P3', 'P4']"}
"""  # noqa: E501
JWKS = '{"keys": [{"kty": "EC", "crv": "P-256", "x": "eA", "y": "eQ"}]}'
HEAD = "version: 1\npublic_url: https://gw.example.com\n"

Load = Callable[..., Config]
Refusal = Callable[..., ConfigError]


def write(folder: Path, text: str, name: str = "agentgw.yaml") -> Path:
    """A configuration file that only its owner may write."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return path


def make_environment(folder: Path) -> dict[str, str]:
    """An environment whose PATH holds one program, mcp-server-time."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    program = programs / "mcp-server-time"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    (folder / "coder.jwks.json").write_text(JWKS)
    return {"PATH": str(programs), "HOME": str(folder)}


@pytest.fixture
def read(tmp_path: Path) -> Load:
    """Load a text as the configuration, with more environment and with flags."""
    base = make_environment(tmp_path)

    def read_text(
        text: str,
        env: Mapping[str, str] | None = None,
        flags: Mapping[str, Any] | None = None,
        name: str = "agentgw.yaml",
    ) -> Config:
        return load(write(tmp_path, text, name), base | dict(env or {}), flags or {})

    return read_text


@pytest.fixture
def refuse(read: Load) -> Refusal:
    """The ConfigError a text earns."""

    def refused(text: str, **how: Any) -> ConfigError:
        with pytest.raises(ConfigError) as caught:
            read(text, **how)
        return caught.value

    return refused
