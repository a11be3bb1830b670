"""Tool servers that hang, die, lie or were never there: each fails alone, in time, and with a reason."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.harness import (
    MODERN,
    ROOT,
    Gateway,
    Issuer,
    allow_all,
    faulty_server,
    free_port,
    gateway,
    wait_for,
)
from tests.integration.agents import Agent, Answered

UPSTREAM_FAILED = 46005
SECONDS = 1.2
"""The deadline of each server that lets us wait."""

ENOUGH = 10.0
"""The deadline of those that do not."""

SLACK = 3.0
"""Seconds a busy machine may add."""

FAULTS = {
    "hang": "in time|within",
    "close": "closed the connection",
    "die": "closed the connection|broke off",
    "500": "HTTP 500",
    "huge": "more than|larger",
    "garbage": "HTTP",
    "drip": "in time|within",
    "redirect": "redirect",
    "headers": "headers",
    "deep": "JSON",
    "wrong-id": "no response|without a response",
    "not-json": "JSON",
    "sse-endless": "in time|within",
    "sse-cut": "without a response|broke off|closed",
    "gzip": "compressed",
}
WAITING = ("hang", "drip", "sse-endless")
ERAS = {"new": "modern", "old": "handshake"}
STDIO = {
    "exits": ("import sys; sys.exit('no licence file found')", "no licence file found"),
    "chatters": (
        "import sys, time\nfor n in range(10**9): print('garbage', n, flush=True); time.sleep(0.01)",
        "within|in time|start|JSON",
    ),
    "deaf": ("import time; time.sleep(600)", "within|in time|start"),
}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[Gateway]:
    with faulty_server() as url:
        servers: dict[str, Any] = {"good": {"url": f"{url}/mcp/ok"}}
        for fault in FAULTS:
            for word, era in ERAS.items():
                servers[f"{fault}-{word}"] = {
                    "url": f"{url}/mcp/{fault}?on=tools/call&era={era}",
                    "timeout": SECONDS if fault in WAITING else ENOUGH,
                }
            servers[f"{fault}-always"] = {"url": f"{url}/mcp/{fault}", "timeout": SECONDS}
        for name, (code, _) in STDIO.items():
            servers[name] = {
                "command": sys.executable,
                "args": ["-c", code],
                "timeout": ENOUGH if name == "exits" else SECONDS,
            }
        servers["never"] = {"url": f"http://127.0.0.1:{free_port()}/mcp", "timeout": SECONDS}
        changes = {"servers": servers, "grants": allow_all(*servers)}
        with gateway(tmp_path_factory.mktemp("bad"), issuer, changes) as gw:
            first = Agent(f"{gw.url}/mcp", gw.token())
            known = {f"{fault}-{word}__echo" for fault in FAULTS for word in ERAS}
            wait_for(lambda: known < set(first.tools()), "the tools of those that list any")
            first.close()
            yield gw


@pytest.fixture
def agent(house: Gateway) -> Iterator[Agent]:
    agent = Agent(f"{house.url}/mcp", house.token())
    yield agent
    agent.close()


def assert_failed(answer: Answered, server: str, reason: str) -> None:
    assert answer.status == 200
    assert answer.error["code"] == UPSTREAM_FAILED
    assert answer.error["message"].startswith(f"{server} failed: ")
    assert re.search(reason, answer.error["message"]), answer.error["message"]
    assert answer.error["data"]["reason"] == "upstream_failed"
    assert answer.error["data"]["event_id"] == answer.event_id


def timed(agent: Agent, tool: str) -> tuple[Answered, float]:
    began = time.monotonic()
    return agent.call(tool, {"text": "x"}), time.monotonic() - began


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_a_call_is_that_calls_alone(
    house: Gateway, agent: Agent, fault: str, era: str
) -> None:
    server = f"{fault}-{era}"
    with ThreadPoolExecutor(1) as pool:
        bad = pool.submit(timed, agent, f"{server}__echo")
        other = Agent(agent.url, agent.token)
        good, _ = timed(other, "good__echo")
        other.close()
        answer, seconds = bad.result(20)
    assert "x" in good.result["content"][0]["text"]
    assert_failed(answer, server, FAULTS[fault])
    assert seconds < SECONDS + SLACK
    again, _ = timed(agent, "good__echo")
    assert "x" in again.result["content"][0]["text"]


@pytest.mark.parametrize("fault", ["hang", "sse-endless", "die", "huge"])
def test_a_handshake_agent_is_told_the_same(house: Gateway, fault: str) -> None:
    for era in ERAS:
        agent = Agent(f"{house.url}/mcp/{fault}-{era}", house.token(), "2025-11-25")
        answer = agent.call("echo", {"text": "x"})
        assert_failed(answer, f"{fault}-{era}", FAULTS[fault])
        agent.close()


@pytest.mark.parametrize("server", [*STDIO, "never", *(f"{fault}-always" for fault in FAULTS)])
def test_a_hopeless_server_says_why_on_every_path(
    house: Gateway, agent: Agent, server: str
) -> None:
    answer, seconds = timed(agent, f"{server}__echo")
    if server in STDIO:
        reason = STDIO[server][1]
    else:
        reason = "refused the connection|" + FAULTS.get(server.removesuffix("-always"), "never")
        reason += "|protocol version|in time|within"
    assert_failed(answer, server, reason)
    assert seconds < SECONDS + SLACK
    own = Agent(f"{agent.url}/{server}", agent.token)
    assert_failed(own.ask("tools/list"), server, "")
    assert own.ask("server/discover").result["capabilities"] == {"tools": {}}
    own.close()


@pytest.mark.parametrize("server", ["hang-always", "drip-always", "never"])
def test_other_methods_fail_in_time_too(house: Gateway, agent: Agent, server: str) -> None:
    own = Agent(f"{agent.url}/{server}", agent.token)
    began = time.monotonic()
    assert_failed(own.ask("resources/read", {"uri": "note://a"}), server, "")
    assert_failed(own.ask("resources/list"), server, "")
    assert time.monotonic() - began < 2 * (SECONDS + SLACK)
    own.close()


def test_the_tools_of_the_others_stay_listed_and_the_list_waits_for_nobody(
    house: Gateway, agent: Agent
) -> None:
    began = time.monotonic()
    names = set(agent.tools())
    assert time.monotonic() - began < 1.5
    assert {"good__echo", "hang-new__echo", "huge-old__echo"} <= names
    assert not any(name.startswith(("never__", "hang-always__", "exits__")) for name in names)


def test_the_record_says_that_and_why_the_server_failed(house: Gateway, agent: Agent) -> None:
    answer, _ = timed(agent, "500-new__echo")

    def outcomes() -> list[dict[str, Any]]:
        mine = [r for r in house.records() if r["event_id"] == answer.event_id]
        return [r for r in mine if r["phase"] == "outcome"]

    wait_for(outcomes, "the outcome to be written")
    assert outcomes()[0]["outcome"] == "failed"
    assert "HTTP 500" in outcomes()[0]["error"]


def test_a_server_that_was_never_there_is_used_once_it_is(tmp_path: Path, issuer: Issuer) -> None:
    port = free_port()
    flag = tmp_path / "licence"
    script = str(ROOT / "tools/servers/stdio_echo.py")
    code = (
        "import os, sys\n"
        f"if not os.path.exists({str(flag)!r}): sys.exit('no licence file found')\n"
        f"os.execv(sys.executable, [sys.executable, {script!r}])"
    )
    servers = {
        "late": {"url": f"http://127.0.0.1:{port}/mcp/ok", "timeout": ENOUGH},
        "child": {"command": sys.executable, "args": ["-c", code], "timeout": ENOUGH},
    }
    with gateway(tmp_path, issuer, {"servers": servers, "grants": allow_all(*servers)}) as gw:
        agent = Agent(f"{gw.url}/mcp", gw.token())
        assert agent.tools() == []
        assert_failed(agent.call("late__echo"), "late", "refused the connection")
        assert_failed(agent.call("child__echo"), "child", "no licence file found")
        flag.touch()
        with faulty_server("--port", str(port)):
            wait_for(lambda: "result" in agent.call("late__echo").final, "the server's return")
            wait_for(lambda: "result" in agent.call("child__echo").final, "the child's return")
            assert {"late__echo", "child__echo"} <= set(agent.tools())
        assert_failed(agent.call("late__echo"), "late", "refused|closed")
        with faulty_server("--port", str(port)):
            wait_for(lambda: "result" in agent.call("late__echo").final, "the second return")
        agent.close()


def test_a_child_that_dies_in_a_call_fails_that_call_and_is_started_again(
    tmp_path: Path, issuer: Issuer
) -> None:
    script = str(ROOT / "tools/servers/stdio_echo.py")
    servers = {"child": {"command": sys.executable, "args": [script], "timeout": ENOUGH}}
    with gateway(tmp_path, issuer, {"servers": servers, "grants": allow_all(*servers)}) as gw:
        agent = Agent(f"{gw.url}/mcp", gw.token(), MODERN)
        assert_failed(agent.call("child__die", {"code": 7}), "child", "7")
        wait_for(lambda: "result" in agent.call("child__echo").final, "the child's return")
        agent.close()
