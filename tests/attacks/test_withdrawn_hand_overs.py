"""A hand-over that an operator forbids later: what came of it stops at the next call, not at its end."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.attacks.test_revocation import exchanged
from tests.door import Door, door
from tests.harness import modern_call, modern_headers, modern_message
from tests.sts.sts_under_test import MCP, StsUnderTest, agent_id

BEHIND = "https://tickets.example.com/mcp"


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[StsUnderTest]:
    """coder stands behind a tool server, too."""
    async with StsUnderTest(tmp_path) as made:
        made.rules = dataclasses.replace(made.rules, behind={BEHIND: "coder"})
        yield made


@pytest.mark.anyio
async def test_standing_behind_a_server_does_not_keep_a_hand_over_alive(
    service: StsUnderTest,
) -> None:
    handed = await service.token(service.idp_token(), agent_id("coder"))
    taken = await service.token(handed, MCP, "coder")
    assert (await service.exchange(taken, MCP, "coder")).status_code == 200
    planner = dataclasses.replace(service.rules.agents["planner"], may_hand_to=frozenset())
    agents = {**service.rules.agents, "planner": planner}
    service.rules = dataclasses.replace(service.rules, agents=agents)
    answer = await service.exchange(taken, MCP, "coder")
    assert answer.json()["error"] == "invalid_grant", answer.text
    assert "any more" in answer.json()["error_description"]


def in_coders_hands(at: Door) -> str:
    """A token of coder's for what planner handed over."""
    handed = exchanged(at, at.gw.token(), f"{at.gw.url}/a2a/coder")
    return exchanged(at, handed, f"{at.gw.url}/mcp", "coder")


def open_stream(at: Door, token: str) -> tuple[dict[str, str], bytes]:
    message = modern_call("time__progress", {"steps": 300, "seconds": 0.1}, "open")
    message["params"]["_meta"]["progressToken"] = "p"
    body = json.dumps(message).encode()
    head = modern_headers(message, token)
    return head | {"Host": f"127.0.0.1:{at.port}", "Content-Length": str(len(body))}, body


def test_calls_lists_and_open_streams_end_with_the_right_to_hand_over(tmp_path: Path) -> None:
    with door(tmp_path) as at:
        at.gw.config["grants"].append({"agents": ["coder"], "tools": ["time/*"]})
        at.gw.reload()
        token = in_coders_hands(at)
        echo = modern_call("time__echo", {"text": "hello"})
        assert at.post(echo, token=token).code is None
        head, body = open_stream(at, token)
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        with at.connect() as sock:
            sock.sendall(f"POST /mcp HTTP/1.1\r\n{lines}\r\n".encode() + body)
            assert sock.recv(65536).startswith(b"HTTP/1.1 200")
            at.gw.config["agents"]["planner"]["may_hand_to"] = []
            at.gw.reload()
            before = len(at.calls())
            answer = at.post(echo, token=token)
            assert answer.code == 46003
            assert b"the hand-over from planner to coder was revoked" in answer.body
            assert at.post(modern_message("tools/list", {}), token=token).code == 46003
            assert len(at.calls()) == before
            rest = b""
            while not rest.endswith(b"\r\n0\r\n\r\n"):
                rest += sock.recv(65536)
            last = json.loads(rest.split(b"data: ")[-1].split(b"\r\n")[0])
            assert (last["id"], last["error"]["code"]) == ("open", 46003)
        at.gw.config["agents"]["planner"]["may_hand_to"] = ["coder"]
        at.gw.reload()
        assert at.post(echo, token=token).code is None
