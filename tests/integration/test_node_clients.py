"""The npm clients, unmodified, at pinned versions: list and call a tool on /mcp and on /mcp/{server}."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import ROOT, Gateway, Issuer, allow_all, faulty_server, gateway
from tests.npm import installed

pytestmark = pytest.mark.node
FOLDER = ROOT / "tests" / "node"
SERVERS = ("modern", "handshake", "child")
CLIENTS = ("sdk", "client", "client-auto")
PLACES = [(server, union) for server in SERVERS for union in (True, False)]
everywhere = pytest.mark.parametrize(("server", "union"), PLACES)


@pytest.fixture(scope="session")
def packages() -> Path:
    """The folder with the pinned packages."""
    return installed(FOLDER / "package.json")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[Gateway]:
    with faulty_server() as url:
        script = str(ROOT / "tools/servers/stdio_echo.py")
        servers: dict[str, Any] = {
            "modern": {"url": f"{url}/mcp/ok?era=modern"},
            "handshake": {"url": f"{url}/mcp/ok?era=handshake"},
            "child": {"command": sys.executable, "args": [script]},
        }
        changes = {"servers": servers, "grants": allow_all(*servers)}
        with gateway(tmp_path_factory.mktemp("node"), issuer, changes) as gw:
            yield gw


def place(house: Gateway, server: str, union: bool) -> tuple[str, str]:
    """The URL, and the name of the echo tool there."""
    if union:
        return f"{house.url}/mcp", f"{server}__echo"
    return f"{house.url}/mcp/{server}", "echo"


def run(packages: Path, house: Gateway, *command: str) -> str:
    done = subprocess.run(
        ["node", *command],
        cwd=packages,
        env={**os.environ, "MCP_TOKEN": house.token(), "HOME": str(packages / "home")},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def binary(packages: Path, package: str, name: str) -> str:
    manifest = json.loads((packages / "node_modules" / package / "package.json").read_text())
    return str(packages / "node_modules" / package / manifest["bin"][name])


@everywhere
@pytest.mark.parametrize("client", CLIENTS)
def test_the_npm_libraries_list_and_call(
    packages: Path, house: Gateway, client: str, server: str, union: bool
) -> None:
    url, tool = place(house, server, union)
    script = str(FOLDER / "list_and_call.mjs")
    seen = json.loads(run(packages, house, script, client, url, tool, "grüße"))
    assert tool in seen["tools"]
    assert json.loads(seen["result"]["content"][0]["text"]) == {"text": "grüße"}
    assert seen["refusal"]["code"] == (46001 if union else -32602)


@everywhere
def test_the_inspectors_cli_lists_and_calls(
    packages: Path, house: Gateway, server: str, union: bool
) -> None:
    url, tool = place(house, server, union)
    cli = [binary(packages, "@modelcontextprotocol/inspector", "mcp-inspector"), "--cli", url]
    cli += ["--transport", "http", "--header", f"Authorization: Bearer {house.token()}"]
    listed = json.loads(run(packages, house, *cli, "--method", "tools/list"))
    assert tool in [found["name"] for found in listed["tools"]]
    call = ["--method", "tools/call", "--tool-name", tool, "--tool-arg", "text=hello"]
    result = json.loads(run(packages, house, *cli, *call))
    assert json.loads(result["content"][0]["text"]) == {"text": "hello"}


@everywhere
def test_mcp_remote_lists_and_calls_for_a_stdio_client(
    packages: Path, house: Gateway, server: str, union: bool
) -> None:
    url, tool = place(house, server, union)
    opening = {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "tests", "version": "1"},
    }
    asked: list[dict[str, Any]] = [
        {"id": 1, "method": "initialize", "params": opening},
        {"method": "notifications/initialized"},
        {"id": 2, "method": "tools/list", "params": {}},
        {"id": 3, "method": "tools/call", "params": {"name": tool, "arguments": {"text": "hi"}}},
    ]
    command = [
        "node",
        binary(packages, "mcp-remote", "mcp-remote"),
        url,
        "--allow-http",
        "--transport",
        "http-only",
        "--header",
        f"Authorization:Bearer {house.token()}",
    ]
    environment = {**os.environ, "HOME": str(packages / "home")}
    with subprocess.Popen(
        command,
        cwd=packages,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as bridge:
        assert bridge.stdin is not None
        assert bridge.stdout is not None
        answers: dict[int, dict[str, Any]] = {}
        try:
            for message in asked:
                bridge.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
                bridge.stdin.flush()
                while "id" in message and message["id"] not in answers:
                    answer = json.loads(bridge.stdout.readline())
                    answers[answer.get("id", 0)] = answer
        finally:
            bridge.kill()
    assert tool in [found["name"] for found in answers[2]["result"]["tools"]]
    assert json.loads(answers[3]["result"]["content"][0]["text"]) == {"text": "hi"}
