"""The Inspector's CLI, unmodified and pinned: given a URL, it has its user sign in, then lists and calls."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docs.test_readme import fenced
from tests.harness import ROOT, free_port
from tests.login import Watcher, agents, login_place
from tests.npm import installed
from tests.people import Place

pytestmark = pytest.mark.node
FORBIDDEN = "tool:notes/fail"


@pytest.fixture(scope="module")
def packages() -> Path:
    return installed(ROOT / "tests" / "node" / "package.json")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, faulty: str) -> Iterator[Place]:
    desktop = agents()["desktop"]
    desktop["login"]["redirect_uris"].append("http://127.0.0.1/oauth/callback")
    everybody: dict[str, Any] = {
        **agents(),
        "desktop": desktop,
        "roaming": {"login": {"dynamic": True}},
    }
    folder: Path = tmp_path_factory.mktemp("login")
    with login_place(folder, faulty, agents=everybody) as running:
        yield running


class Cli:
    """The Inspector's CLI of one user, with a home of its own."""

    def __init__(self, packages: Path, home: Path, options: list[str]) -> None:
        manifest = packages / "node_modules/@modelcontextprotocol/inspector/package.json"
        program = manifest.parent / json.loads(manifest.read_text())["bin"]["mcp-inspector"]
        callback = ["--callback-url", f"http://127.0.0.1:{free_port()}/oauth/callback"]
        self._command = ["node", str(program), *options, *callback]
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "MCP_AUTO_OPEN_ENABLED": "true",
            "MCP_INSPECTOR_SECRET_STORE": "file",
            "BROWSER": "true",
        }
        self.said = home / "said.txt"

    def run(self, here: Place, arguments: list[str], watched: bool = False) -> dict[str, Any]:
        """What it prints; with `watched` alice does what it asks of its user."""
        self.said.touch()
        watcher = Watcher(here, self.said, without=(FORBIDDEN,))
        thread = threading.Thread(target=watcher.run)
        if watched:
            thread.start()
        try:
            with self.said.open("a") as stderr:
                done = subprocess.run(
                    [*self._command, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    env=self._environment,
                    text=True,
                    timeout=90,
                    check=False,
                )
        finally:
            watcher.stop()
            if watched:
                thread.join()
        assert done.returncode == 0, done.stdout + self.said.read_text()
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


@pytest.mark.parametrize("known_by", ["registration", "the operator"])
def test_the_inspectors_cli_signs_its_user_in_and_works(
    here: Place, packages: Path, tmp_path: Path, known_by: str
) -> None:
    written = fenced((ROOT / "docs/login.md").read_text("utf-8"), "sh")[0]
    program, package, *words = shlex.split(written.replace("https://gw.example.com", here.url))
    assert (program, package) == ("npx", "@modelcontextprotocol/inspector")
    if known_by == "registration":
        at = words.index("--client-id")
        del words[at : at + 2]
    method = words.index("--method")
    cli = Cli(packages, tmp_path, words[:method])
    listed = cli.run(here, words[method:], watched=True)
    names = {tool["name"] for tool in listed["tools"]}
    assert "notes__echo" in names and "notes__fail" not in names
    call = ["--method", "tools/call", "--tool-name", "notes__echo", "--tool-arg", "text=hello"]
    called = cli.run(here, call)
    assert json.loads(called["content"][0]["text"]) == {"text": "hello"}
