"""mcp-remote, unmodified and pinned: given a URL, it has its user sign in, then lists and calls."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from tests.harness import ROOT, free_port
from tests.login import Watcher, agents, login_place
from tests.npm import installed
from tests.people import Place

pytestmark = [pytest.mark.node, pytest.mark.anyio]


@pytest.fixture(scope="module")
def packages() -> Path:
    return installed(ROOT / "tests" / "node" / "package.json")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, faulty: str) -> Iterator[Place]:
    folder: Path = tmp_path_factory.mktemp("login")
    roaming: dict[str, Any] = {"login": {"dynamic": True}}
    desktop = agents()["desktop"]
    desktop["login"]["redirect_uris"].append("http://localhost/oauth/callback")
    everybody = {**agents(), "desktop": desktop, "roaming": roaming}
    with login_place(folder, faulty, agents=everybody) as running:
        yield running


@pytest.mark.parametrize("known_by", ["registration", "the operator"])
async def test_mcp_remote_signs_its_user_in_and_works(
    here: Place, packages: Path, tmp_path: Path, known_by: str
) -> None:
    said = tmp_path / "said.txt"
    said.touch()
    static = ["--static-oauth-client-info", '{"client_id": "desktop"}']
    command = StdioServerParameters(
        command="node",
        args=[
            str(packages / "node_modules/mcp-remote/dist/proxy.js"),
            f"{here.url}/mcp",
            str(free_port()),
            "--allow-http",
            *(static if known_by == "the operator" else []),
        ],
        # Nothing of this machine's own may be opened or kept.
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "MCP_REMOTE_CONFIG_DIR": str(tmp_path),
            "BROWSER": "true",
        },
    )
    watcher = Watcher(here, said, without=("tool:notes/fail",))
    with said.open("a") as stderr:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.to_thread.run_sync, watcher.run)
            try:
                with anyio.fail_after(60):
                    async with Client(stdio_client(command, errlog=stderr)) as client:
                        names = {tool.name for tool in (await client.list_tools()).tools}
                        assert "notes__echo" in names and "notes__fail" not in names
                        called = await client.call_tool("notes__echo", {"text": "hello"})
                        assert not called.is_error
            finally:
                watcher.stop()
