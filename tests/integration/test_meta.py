"""What of an agent's `_meta` reaches tool servers, as docs/tool-servers.md says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.canary_house import ERAS, STDIO, CanaryHouse, canary_house
from tests.door import HANDSHAKE
from tests.harness import MODERN, modern_headers, modern_message

PREFIX = "io.modelcontextprotocol/"
ENVELOPE = {
    f"{PREFIX}protocolVersion": MODERN,
    f"{PREFIX}clientInfo": {"name": "tests", "version": "1"},
    f"{PREFIX}clientCapabilities": {},
    f"{PREFIX}logLevel": "info",
}
OWN = {
    "example.com/anything": {"deep": [1]},
    "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "progressToken": "a-token-of-the-agents",
}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CanaryHouse]:
    with canary_house(tmp_path_factory.mktemp("meta")) as running:
        yield running


def call(house: CanaryHouse, server: str, agent_era: str) -> tuple[dict[str, Any], bytes]:
    """The `_meta` that a call of the tool `progress` arrived with, and the answer."""
    meta = {**OWN, **(ENVELOPE if agent_era == "modern" else {})}
    params = {"name": "progress", "arguments": {"steps": 1}, "_meta": meta}
    message = modern_message("tools/call", params)
    message["params"]["_meta"] = meta
    headers = modern_headers(message, house.gw.token())
    if agent_era == "handshake":
        del headers["Mcp-Method"], headers["Mcp-Name"]
        headers |= {"Mcp-Session-Id": house.session(server), "MCP-Protocol-Version": HANDSHAKE}
    body = json.dumps(message).encode()
    answer = house.request("POST", f"/mcp/{server}", headers, body)
    assert answer.status == 200, answer
    if server in STDIO:
        lines = (house.canary.parent / f"{server}.jsonl").read_text().splitlines()
        sent = [json.loads(line)["body"] for line in lines]
    else:
        sent = [c["message"] for c in house.calls() if c["query"]["as"] == server]
    found: dict[str, Any] = [m for m in sent if m["method"] == "tools/call"][-1]["params"]["_meta"]
    return found, answer.body


@pytest.mark.parametrize("agent_era", ERAS)
@pytest.mark.parametrize("server", [f"{kind}-{era}" for kind in ("token", "local") for era in ERAS])
def test_all_that_the_agent_put_there_but_the_envelope_passes(
    house: CanaryHouse, server: str, agent_era: str
) -> None:
    found, answer = call(house, server, agent_era)
    for name in ("example.com/anything", "traceparent"):
        assert found.pop(name) == OWN[name]
    token = found.pop("progressToken")
    assert (token == OWN["progressToken"]) is (server not in STDIO)
    assert f'"progressToken":"{OWN["progressToken"]}"'.encode() in answer.replace(b": ", b":")
    if server.endswith("handshake"):
        assert found == {}
    elif agent_era == "modern":
        assert found == ENVELOPE
    else:
        assert found.pop(f"{PREFIX}clientInfo")["name"] == "agentgw"
        assert found == {f"{PREFIX}protocolVersion": MODERN, f"{PREFIX}clientCapabilities": {}}
