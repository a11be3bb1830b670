"""The MCP conformance suite's scenarios for authorization servers, run against the gateway as it is."""

from __future__ import annotations

import os
import queue
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.harness import ROOT, free_port
from tests.login import allow, attacked_place, signed_in
from tests.npm import installed
from tests.people import Place, Visitor

pytestmark = pytest.mark.conformance
PATIENCE = 60.0


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with attacked_place(tmp_path_factory.mktemp("conformance")) as place:
        yield place


@contextmanager
def suite(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], queue.Queue[str]]]:
    """The suite as a process, and the lines it says."""
    folder = installed(ROOT / "tests" / "conformance" / "package.json")
    program = Path(folder, "node_modules", ".bin", "conformance")
    process = subprocess.Popen(
        [str(program), "authorization", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "NO_COLOR": "1"},
    )
    lines: queue.Queue[str] = queue.Queue()

    def listen() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield process, lines
    finally:
        process.kill()
        process.wait()
        thread.join(5)
        assert process.stdout is not None
        process.stdout.close()


def authorization_url(lines: queue.Queue[str], said: list[str]) -> str:
    """The URL that the suite asks its user to open."""
    while True:
        said.append(lines.get(timeout=PATIENCE))
        found = re.search(r"http://\S+/oauth/authorize\?\S+", said[-1])
        if found is not None:
            return found[0]


def test_every_scenario_passes(here: Place) -> None:
    said: list[str] = []
    where = ("--url", here.url, "--resource", f"{here.url}/mcp")
    with suite(*where, "--client-id", "desktop", "-p", str(free_port())) as (process, lines):
        url = authorization_url(lines, said)
        with Visitor() as visitor:
            page = signed_in(here, visitor, visitor.open(url), "alice")
            back = httpx2.get(allow(visitor, page), trust_env=False)
        assert back.status_code == 200, back.text
        assert process.wait(PATIENCE) == 0, said
    while not lines.empty():
        said.append(lines.get())
    summary = "".join(said)
    assert "authorization-server-metadata-endpoint: 1 passed, 0 failed" in summary
    assert "authorization-code-grant: 1 passed, 0 failed" in summary
