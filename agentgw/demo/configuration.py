"""The agentgw.yaml of the demo, as a person would write it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from agentgw.demo.stage import Stage

_TEXT = """\
# Written by `agentgw demo`. With dev: true plain http and a loopback issuer are allowed.
version: 1
dev: true
public_url: {gateway}
listen: {listen}
state_dir: state
issuers:
  laptop:
    issuer: {issuer}
    audiences: ["{gateway}/mcp"]
    groups_claim: groups
login:
  issuer: laptop
  client_id: agentgw
  client_secret: "${{file:login.secret}}"
agents:
  desktop:  # whatever MCP client you point here: it registers itself, and you let it in
    login: {{dynamic: true}}
    may_hand_to: [coder]
  planner:
    clients: [{{issuer: laptop, client_id: planner, confidential: true}}]
    auth: {{secret: "${{file:planner.secret}}"}}
    may_hand_to: [coder]
  coder:
    auth: {{jwks: "file:coder.jwks.json"}}
servers:
  time:
    command: "{python}"
    args: [-m, mcp_server_time, --local-timezone, UTC]
{git}  tickets:
    url: {tickets}
    tools: {{close_ticket: {{scope: tickets.write}}}}
grants:
  - {{id: support, users: ["laptop:group:support"], tools: ["time/*", "git/*", "tickets/*"]}}
  - {{id: planner, agents: [planner, desktop], tools: ["time/*", "git/*", "tickets/*"]}}
  - {{id: coder, agents: [coder], tools: ["tickets/*"]}}
  - id: people-decide
    deny: true
    agents: [coder]
    tools: [tickets/close_ticket]
    when: "!(args.reason in ['solved', 'duplicate'])"
"""
_GIT = """\
  git:
    command: "{python}"
    args: [-m, mcp_server_git, --repository, "{repository}"]
"""


def demo_configuration(stage: Stage) -> str:
    """The text of the demo's agentgw.yaml; the server git is in it where git is installed."""
    repository = stage.folder / "repository"
    git = ""
    if has_git():
        _make_repository(repository)
        git = _GIT.format(python=sys.executable, repository=repository)
    text = _TEXT.format(
        gateway=stage.gateway,
        listen=stage.listen,
        issuer=stage.issuer.url,
        tickets=stage.tickets,
        python=sys.executable,
        git=git,
    )
    return text if git else text.replace(', "git/*"', "")


def has_git() -> bool:
    """Whether the server git can run here: it needs the program and its package."""
    return bool(shutil.which("git") and find_spec("mcp_server_git"))


def _make_repository(path: Path) -> None:
    """A repository with one commit, untouched by the user's own git settings."""
    path.mkdir()
    (path / "README.md").write_text("A repository of one commit.\n", "utf-8")
    who = ("-c", "user.name=alice", "-c", "user.email=alice@example.com")
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    for command in (
        ("init", "--quiet"),
        ("add", "README.md"),
        (*who, "commit", "--quiet", "--no-gpg-sign", "-m", "Begin"),
    ):
        subprocess.run(
            [shutil.which("git") or "git", "-C", str(path), *command],
            check=True,
            capture_output=True,
            env=environment,
        )
