"""Agents and tool servers of either era, in all pairings: nothing is lost between them."""

from __future__ import annotations

import json
import secrets
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.harness import (
    MODERN,
    ROOT,
    START_SECONDS,
    Gateway,
    Issuer,
    allow_all,
    faulty_server,
    gateway,
    wait_for,
)
from tests.integration.agents import HANDSHAKES, Agent, Document, conforms

ERAS = ("modern", "handshake")
HTTP = tuple(f"http-{era}" for era in ERAS)
STDIO = tuple(f"stdio-{era}" for era in ERAS)
SERVERS = (*HTTP, *STDIO)
AGENTS = (MODERN, *HANDSHAKES)

every_agent = pytest.mark.parametrize("version", AGENTS)
every_server = pytest.mark.parametrize("server", SERVERS)
both_paths = pytest.mark.parametrize("union", [True, False], ids=["union", "own-path"])


class House:
    """One gateway before a tool server of every kind, and what each of these was sent."""

    def __init__(self, gw: Gateway, folder: Path) -> None:
        self.gw = gw
        self._folder = folder

    def received(self, server: str) -> list[Document]:
        """Everything a server was sent: the messages, and for HTTP their headers."""
        name = "http" if server in HTTP else server
        found = []
        for line in (self._folder / f"{name}.jsonl").read_text().splitlines():
            entry = json.loads(line)
            body = entry.get("body")
            if server in HTTP:
                if entry["query"]["era"] != server[5:]:
                    continue
                body = json.loads(body) if body else {}
            found.append({"message": body, **entry})
        return found

    def calls(self, server: str) -> list[Document]:
        """The tools/call messages a server was sent, and not those given up."""
        return [
            entry["message"]
            for entry in self.received(server)
            if entry["message"].get("method") == "tools/call" and "gone" not in entry
        ]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("eras")
    with faulty_server("--record", str(folder / "http.jsonl")) as url:
        servers: dict[str, Any] = {
            f"http-{era}": {"url": f"{url}/mcp/ok?era={era}"} for era in ERAS
        }
        for era in ERAS:
            script = str(ROOT / "tools/servers/stdio_echo.py")
            record = str(folder / f"stdio-{era}.jsonl")
            arguments = [script, "--era", era, "--record", record]
            servers[f"stdio-{era}"] = {"command": sys.executable, "args": arguments}
        servers["time"] = {"command": "mcp-server-time", "args": ["--local-timezone", "UTC"]}
        servers["time"]["command"] = str(Path(sys.executable).parent / "mcp-server-time")
        changes = {"servers": servers, "grants": allow_all(*servers)}
        with gateway(folder, issuer, changes) as gw:
            yield House(gw, folder)


@pytest.fixture
def agent(house: House, version: str) -> Iterator[Agent]:
    """An agent of `version` on /mcp; tests move it to a server's own path by `at`."""
    agent = Agent(f"{house.gw.url}/mcp", house.gw.token(), version)
    yield agent
    agent.close()


def at(agent: Agent, server: str, union: bool) -> str:
    """Point `agent` at the union or at the server's own path; gives the prefix of its tool names."""
    if union:
        return f"{server}__"
    agent.url += f"/{server}"
    return ""


@every_agent
@every_server
@both_paths
def test_lists_and_calls_a_tool_in_every_pairing(
    house: House, agent: Agent, version: str, server: str, union: bool
) -> None:
    prefix = at(agent, server, union)
    listed = agent.ask("tools/list")
    conforms(version, "ListToolsResult", listed.result)
    tools = {tool["name"]: tool for tool in listed.result["tools"]}
    assert tools[prefix + "echo"]["inputSchema"]["properties"] == {"text": {"type": "string"}}
    text = f"grüß dich, 世界 🌍 {version} {union}"
    answer = agent.call(prefix + "echo", {"text": text})
    conforms(version, "CallToolResult", answer.result)
    assert json.loads(answer.result["content"][0]["text"]) == {"text": text}
    assert ("resultType" in answer.result) == (version == MODERN)
    sent = [call for call in house.calls(server) if call["params"]["arguments"] == {"text": text}]
    assert len(sent) == 1
    upstream = MODERN if server.endswith("modern") else "2025-11-25"
    conforms(upstream, "CallToolRequest", sent[0])
    meta = sent[0]["params"].get("_meta", {})
    assert ("io.modelcontextprotocol/protocolVersion" in meta) == server.endswith("modern")


@every_agent
@every_server
def test_structured_content_arrives_whole(agent: Agent, version: str, server: str) -> None:
    prefix = at(agent, server, True)
    answer = agent.call(prefix + "structured", {"text": "x", "deep": [{"a": [1, None, True]}]})
    conforms(version, "CallToolResult", answer.result)
    assert answer.result["structuredContent"]["echo"]["deep"] == [{"a": [1, None, True]}]


@every_agent
@every_server
def test_a_tools_own_failure_is_a_result(agent: Agent, version: str, server: str) -> None:
    answer = agent.call(at(agent, server, True) + "fail")
    conforms(version, "CallToolResult", answer.result)
    assert answer.status == 200
    assert answer.result["isError"] is True
    assert answer.result["content"] == [{"type": "text", "text": "it failed on purpose"}]


@every_agent
@every_server
def test_a_servers_json_rpc_error_keeps_its_code_message_and_data(
    agent: Agent, version: str, server: str
) -> None:
    error = {"code": -31999, "message": "nö", "data": {"why": [1, {"x": None}]}, "extra": 5}
    answer = agent.call(at(agent, server, False) + "raw", {"error": json.dumps(error)})
    assert answer.error == error


@every_agent
@every_server
@both_paths
def test_progress_comes_in_order_under_the_agents_own_token(
    agent: Agent, version: str, server: str, union: bool
) -> None:
    prefix = at(agent, server, union)
    answer = agent.call(prefix + "progress", {"steps": 3}, _meta={"progressToken": "täk-1"})
    *progress, final = answer.messages
    for message in progress:
        conforms(version, "ProgressNotification", message)
    assert [message["params"]["progress"] for message in progress] == [1, 2, 3]
    assert {message["params"]["progressToken"] for message in progress} == {"täk-1"}
    assert json.loads(final["result"]["content"][0]["text"]) == {"steps": 3}


ODD_RESULT: Document = {
    "content": [
        {"type": "hologram", "blob": [1.5, -0.25, 1e-9], "née": "日本"},
        {"type": "text", "text": "\u2028 🚀 \x07 </script>", "unknown": {"a": None}},
    ],
    "structuredContent": {
        "big": 2**64 + 1,
        "small": -(2**63),
        "exact": 9007199254740993,
        "": [],
        "__proto__": {"x": 1},
    },
    "isError": False,
    "vendor/unknown": {"nested": [[[]]], "n": 2**200},
    "_meta": {"com.example/trace": "t", "other": [True]},
}


@every_agent
@every_server
def test_unknown_members_big_integers_and_odd_text_come_back_unchanged(
    agent: Agent, version: str, server: str
) -> None:
    arguments = {"result": json.dumps(ODD_RESULT)}
    result = agent.call(at(agent, server, True) + "raw", arguments).result
    result.pop("resultType", None)
    result["_meta"].pop("io.modelcontextprotocol/serverInfo", None)
    assert result == ODD_RESULT


@every_agent
@every_server
def test_half_a_surrogate_pair_is_the_agents_to_judge(
    agent: Agent, version: str, server: str
) -> None:
    result = json.dumps({"content": [{"type": "text", "text": "half \ud800"}]})
    answer = agent.call(at(agent, server, True) + "raw", {"result": result})
    assert answer.result["content"] == [{"type": "text", "text": "half \ud800"}]


@every_agent
@every_server
@both_paths
def test_unknown_members_of_a_request_reach_the_server(
    house: House, agent: Agent, version: str, server: str, union: bool
) -> None:
    marker = f"{version} {server} {union}"
    arguments = {"text": marker, "Ünknown": [None, {"a": 9007199254740991}, "\u0000"]}
    more = {"vendorMember": {"x": [1]}, "_meta": {"com.example/k": {"deep": [0]}}}
    answer = agent.call(at(agent, server, union) + "echo", arguments, **more)
    assert json.loads(answer.result["content"][0]["text"]) == arguments
    sent = [c for c in house.calls(server) if c["params"]["arguments"].get("text") == marker]
    assert sent[0]["params"]["vendorMember"] == {"x": [1]}
    assert sent[0]["params"]["_meta"]["com.example/k"] == {"deep": [0]}
    assert sent[0]["params"]["arguments"] == arguments


@every_agent
@every_server
def test_the_answer_carries_the_agents_id(agent: Agent, version: str, server: str) -> None:
    params = {"name": at(agent, server, True) + "echo", "arguments": {}}
    for request_id in (0, "", "ünï-1", -7, 2**53 - 1, "0"):
        final = agent.ask("tools/call", params, request_id).final
        assert final["id"] == request_id
        assert type(final["id"]) is type(request_id)
        assert "result" in final


@every_server
@pytest.mark.parametrize("version", [MODERN])
@pytest.mark.parametrize("progress", [True, False], ids=["streaming", "plain"])
def test_a_modern_agent_that_hangs_up_cancels_the_call_at_the_server(
    house: House, agent: Agent, version: str, server: str, progress: bool
) -> None:
    text = f"hang-up-{secrets.token_hex(8)}"
    _, message = _lasting_call(agent, server, progress, text)
    if progress:
        with agent.streaming(message) as stream:
            assert next(stream)["method"] == "notifications/progress"
    else:
        for patience in (0.6, 2.0, 4.0):  # on a busy machine the call may not have arrived yet
            agent.http.timeout = httpx2.Timeout(patience)
            with pytest.raises(httpx2.TimeoutException):
                agent.send(message)
            if _calls_of(house, server, text):
                break
    wait_for(lambda: _given_up(house, server, text), "the server to be told")


@every_server
@pytest.mark.parametrize("version", HANDSHAKES)
@pytest.mark.parametrize("progress", [True, False], ids=["streaming", "plain"])
@both_paths
def test_a_handshake_agent_that_cancels_is_heard_by_the_server(
    house: House, agent: Agent, version: str, server: str, progress: bool, union: bool
) -> None:
    text = f"cancelled-{secrets.token_hex(8)}"
    request_id, message = _lasting_call(agent, server, progress, text, union)
    agent.open()
    notice = {
        "jsonrpc": "2.0",
        "method": "notifications/cancelled",
        "params": {"requestId": request_id, "reason": "changed my mind"},
    }
    streams = threading.Event()

    def ask() -> list[Document]:
        if not progress:
            return agent.send(message).messages
        with agent.streaming(message) as stream:
            first = next(stream)
            streams.set()
            return [first, *stream]

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask)
        wait_for(lambda: _calls_of(house, server, text), "the call to arrive")
        assert not progress or streams.wait(START_SECONDS), "its progress makes it a stream"
        assert agent.send(notice).status == 202
        wait_for(lambda: _given_up(house, server, text), "the server to be told")
        relayed = not union and server == "http-handshake"
        if not relayed:
            assert all("result" not in message for message in answer.result(5))


def _lasting_call(
    agent: Agent, server: str, progress: bool, text: str, union: bool = True
) -> tuple[int, Document]:
    prefix = at(agent, server, union)
    agent.open()
    seconds = 6.0 if union or server != "http-handshake" else 1.5  # there only a word goes through
    if progress:
        arguments = {"steps": int(seconds * 10), "seconds": 0.1, "text": text}
        params = {
            "name": prefix + "progress",
            "arguments": arguments,
            "_meta": {"progressToken": 1},
        }
    else:
        params = {"name": prefix + "slow", "arguments": {"seconds": seconds, "text": text}}
    request_id = next(agent.ids)
    return request_id, agent.message("tools/call", params, request_id)


def _calls_of(house: House, server: str, text: str) -> list[Document]:
    """The call with this text as it reached a server, and again where its connection closed."""
    found = house.received(server)
    calls = [e for e in found if e["message"].get("method") == "tools/call"]
    return [e for e in calls if e["message"]["params"]["arguments"].get("text") == text]


def _given_up(house: House, server: str, text: str) -> list[Document]:
    """How a server noticed that nobody waits for the call with this text: by its connection, or told."""
    calls = _calls_of(house, server, text)
    ids = {(_session_of(call), call["message"]["id"]) for call in calls}
    told = [
        entry
        for entry in house.received(server)
        if entry["message"].get("method") == "notifications/cancelled"
        and (_session_of(entry), entry["message"]["params"]["requestId"]) in ids
    ]
    return [*told, *(call for call in calls if "gone" in call)]


def _session_of(entry: Document) -> str | None:
    session: str | None = entry.get("headers", {}).get("mcp-session-id")
    return session


@every_agent
@both_paths
def test_a_real_stdio_server_answers_agents_of_every_era(
    agent: Agent, version: str, union: bool
) -> None:
    prefix = at(agent, "time", union)
    assert prefix + "get_current_time" in agent.tools()
    answer = agent.call(prefix + "get_current_time", {"timezone": "UTC"})
    conforms(version, "CallToolResult", answer.result)
    assert json.loads(answer.result["content"][0]["text"])["timezone"] == "UTC"
    wrong = agent.call(prefix + "get_current_time", {"timezone": "Nowhere/Land"})
    assert wrong.result["isError"] is True


@every_agent
@every_server
def test_an_opening_conforms_and_names_the_server(agent: Agent, version: str, server: str) -> None:
    at(agent, server, False)
    if version == MODERN:
        opened = agent.ask("server/discover").result
        conforms(version, "DiscoverResult", opened)
        assert version in opened["supportedVersions"]
        assert opened["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "echo-tools"
    else:
        agent.open()
        assert agent.opened is not None
        conforms(version, "InitializeResult", agent.opened)
        assert agent.opened["protocolVersion"] == version
        assert agent.opened["serverInfo"]["name"] == "echo-tools"


@every_agent
def test_on_the_union_the_gateway_introduces_itself(agent: Agent, version: str) -> None:
    if version == MODERN:
        opened = agent.ask("server/discover").result
        conforms(version, "DiscoverResult", opened)
    else:
        agent.open()
        assert agent.opened is not None
        opened = agent.opened
        conforms(version, "InitializeResult", opened)
        assert opened["serverInfo"]["name"] == "agentgw"
        assert agent.ask("ping").result == {}
    assert opened["capabilities"] == {"tools": {}}


def test_the_union_lists_every_server_and_says_whose_each_tool_is(house: House) -> None:
    agent = Agent(f"{house.gw.url}/mcp", house.gw.token())
    tools = agent.ask("tools/list").result["tools"]
    owners = {tool["_meta"]["agentgw/server"] for tool in tools}
    assert owners == {*SERVERS, "time"}
    assert all(
        tool["name"] == f"{tool['_meta']['agentgw/server']}__{tool['_meta']['agentgw/tool']}"
        for tool in tools
    )
    agent.close()
