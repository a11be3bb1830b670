"""`agentgw serve` as a process: how it starts, where it listens, what it leaves behind."""

from __future__ import annotations

import os
import signal
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from tests.harness import (
    ROOT,
    Gateway,
    Issuer,
    allow_all,
    base_config,
    faulty_server,
    free_port,
    gateway,
    modern_headers,
    modern_message,
    wait_for,
)
from tests.integration.authority import Authority
from tests.integration.load import assert_log_holds

STDIO = str(ROOT / "tools/servers/stdio_echo.py")

CHANGING = """
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    answer = {"jsonrpc": "2.0", "id": message.get("id")}
    match message["method"]:
        case "initialize":
            answer["result"] = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}}
            answer["result"]["serverInfo"] = {"name": "changing", "version": "1"}
        case "tools/list":
            answer["result"] = {"tools": json.load(open(sys.argv[1]))}
        case "tools/call":
            answer["result"] = {"content": [], "isError": False}
        case _:
            answer["error"] = {"code": -32601, "message": "no"}
    if "id" in message:
        print(json.dumps(answer), flush=True)
"""
"""A stdio server whose tools stand in a file."""


def made(folder: Path, issuer: Issuer, **changes: Any) -> Gateway:
    """A gateway that is not started."""
    url = f"http://127.0.0.1:{free_port()}"
    return Gateway(folder, issuer, {**base_config(issuer, url, folder), **changes})


@contextmanager
def stopped_after(gw: Gateway) -> Iterator[Gateway]:
    try:
        yield gw
    finally:
        gw.kill()


def assert_leaves(gw: Gateway, code: int, *words: str) -> None:
    """It ends by itself, with that code and one line that says all these words."""
    assert gw.process is not None
    assert gw.process.wait(20) == code, gw.output
    last = gw.output.splitlines()[-1]
    assert "Traceback" not in gw.output
    assert last.startswith("error: "), gw.output
    assert all(word in last for word in words), last


def children_of(pid: int) -> set[int]:
    found = set()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(") ")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.add(int(entry.parent.name))
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def rss_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


# Where it listens


def test_a_port_in_use_is_exit_1_and_one_line(tmp_path: Path, issuer: Issuer) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        gw = made(tmp_path, issuer)
        gw.config["listen"] = f"127.0.0.1:{taken.getsockname()[1]}"
        gw.start(ready=False)
        assert_leaves(gw, 1, "cannot serve on", gw.config["listen"], "in use")
        assert gw.output.count("\n") == 1
    assert not gw.state.exists()


def test_a_wrong_configuration_is_exit_3_and_one_line(tmp_path: Path, issuer: Issuer) -> None:
    gw = made(tmp_path, issuer, grants=[{"users": ["*"], "tools": ["nowhere/*"]}])
    gw.start(ready=False)
    assert_leaves(gw, 3, f"{gw.file}:", "nowhere")
    assert gw.output.count("\n") == 1


def test_state_is_for_its_owner_and_one_gateway_only(
    tmp_path: Path, issuer: Issuer, faulty: str
) -> None:
    servers = {"ok": {"url": f"{faulty}/mcp/ok"}}
    previous = os.umask(0)
    try:
        with gateway(tmp_path, issuer, {"servers": servers, "grants": allow_all("ok")}) as gw:
            entries = [gw.state, *gw.state.rglob("*")]
            open_to_others = {e.name for e in entries if stat.S_IMODE(e.stat().st_mode) & 0o077}
            assert len(entries) > 8 and open_to_others <= {"checkpoints.vkey"}
            for workers in (1, 2):
                folder = tmp_path / str(workers)
                folder.mkdir()
                second = made(folder, issuer, state_dir=str(gw.state), workers=workers)
                second.start(ready=False)
                assert second.process is not None
                assert second.process.wait(20) == 3, second.output
                lines = second.output.splitlines()
                refused = [line for line in lines if "another process writes this log" in line]
                assert refused and len(refused) <= workers and "state_dir" in refused[0]
                assert "Traceback" not in second.output
            assert "result" in gw.call("ok__echo").json()
            assert gw.stop() == 0
            assert_log_holds(gw)
    finally:
        os.umask(previous)


def test_a_unix_socket_serves_outlives_a_kill_and_is_never_stolen(
    tmp_path: Path, issuer: Issuer, faulty: str
) -> None:
    path = tmp_path / "gw.sock"
    gw = made(
        tmp_path,
        issuer,
        listen=f"unix:{path}",
        servers={"ok": {"url": f"{faulty}/mcp/ok"}},
        grants=allow_all("ok"),
    )
    gw.transport = lambda: httpx2.HTTPTransport(uds=str(path))
    with stopped_after(gw.start()):
        assert "result" in gw.call("ok__echo").json()
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        (tmp_path / "second").mkdir()
        second = made(tmp_path / "second", issuer, listen=f"unix:{path}")
        second.start(ready=False)
        assert_leaves(second, 1, "cannot serve on unix:", "in use")
        assert "result" in gw.call("ok__echo").json()
        gw.stop(signal.SIGKILL)
        assert path.is_socket()
        gw.start(ready=False)
        wait_for(lambda: gw.output.count("listening on") == 2, "the second start")
        assert "result" in gw.call("ok__echo").json()
        assert gw.stop() == 0
        assert not path.exists()
        sources = {
            r["source"] for r in gw.records() if r["method"] == "tools/call" and "source" in r
        }
        assert sources == {None}


def test_tls_is_served_and_a_renewed_certificate_is_taken_by_a_reload(
    tmp_path: Path, issuer: Issuer, faulty: str
) -> None:
    authority = Authority(tmp_path)
    authority.issue(1)
    gw = made(tmp_path, issuer, servers={"ok": {"url": f"{faulty}/mcp/ok"}}, grants=allow_all("ok"))
    url = gw.url.replace("http://", "https://")
    gw.config["public_url"] = url
    gw.config["issuers"]["laptop"]["audiences"] = [f"{url}/mcp"]
    gw.config["tls"] = {"cert": str(authority.cert), "key": str(authority.key)}
    gw.transport = lambda: httpx2.HTTPTransport(verify=authority.context())
    with stopped_after(gw.start()):
        assert "result" in gw.call("ok__echo").json()
        assert authority.serial_at(gw.url) == 1
        authority.issue(2)
        gw.reload()
        assert authority.serial_at(gw.url) == 2
        assert "result" in gw.call("ok__echo").json()
        authority.key.write_text("no key")
        gw.reload()
        assert "reload refused" in gw.output.splitlines()[-1]
        assert "tls.cert and tls.key cannot be used" in gw.output.splitlines()[-1]
        assert authority.serial_at(gw.url) == 2
        gw.stop()
        gw.start(ready=False)
        assert_leaves(gw, 3, "tls.cert and tls.key cannot be used")


# Whom it depends on


def test_unreachable_issuers_and_servers_are_said_recovered_from_and_disturb_no_other(
    tmp_path: Path, faulty: str
) -> None:
    issuer, port = Issuer(free_port()), free_port()
    servers = {
        "ok": {"url": f"{faulty}/mcp/ok"},
        "late": {"url": f"http://127.0.0.1:{port}/mcp/ok"},
        "broken": {"command": sys.executable, "args": ["-c", "import sys; sys.exit('no luck')"]},
    }
    with gateway(tmp_path, issuer, {"servers": servers, "grants": allow_all(*servers)}) as gw:
        wait_for(lambda: f"issuer {issuer.url}: it cannot be reached" in gw.output, "the issuer")
        wait_for(lambda: "server late: refused the connection; it will be" in gw.output, "late")
        wait_for(lambda: "no luck" in gw.output, "the last words")
        assert gw.call("ok__echo").status_code == 401
        issuer.start()
        try:
            wait_for(lambda: gw.call("ok__echo").status_code == 200, "the issuer's recovery", 8)
            assert tools_of(gw) == {"ok"}
            assert code_of(gw.call("late__echo")) == 46005
            with faulty_server("--port", str(port)):
                wait_for(lambda: code_of(gw.call("late__echo")) is None, "late's recovery", 8)
                assert tools_of(gw) == {"ok", "late"}
        finally:
            issuer.stop()


def tools_of(gw: Gateway) -> set[str]:
    message = modern_message("tools/list", {})
    with gw.client() as client:
        answer = client.post("/mcp", json=message, headers=modern_headers(message, gw.token()))
    return {tool["name"].partition("__")[0] for tool in answer.json()["result"]["tools"]}


def test_approved_tools_are_recorded_and_approved_anew_by_the_command_line(
    tmp_path: Path, issuer: Issuer
) -> None:
    tools, script = tmp_path / "tools.json", tmp_path / "changing.py"
    script.write_text(CHANGING)
    tools.write_text('[{"name": "a", "description": "old", "inputSchema": {"type": "object"}}]')
    servers = {"changing": {"command": sys.executable, "args": [str(script), str(tools)]}}
    with gateway(tmp_path, issuer, {"servers": servers, "grants": allow_all("changing")}) as gw:
        assert "result" in gw.call("changing__a").json()
        tools.write_text(tools.read_text().replace("old", "new"))
        gw.reload()
        wait_for(lambda: code_of(gw.call("changing__a")) == 46006, "the change to be noticed")
        gw.command("server", "approve", "changing")
        gw.reload()
        wait_for(lambda: code_of(gw.call("changing__a")) is None, "the approval to be noticed")
        assert gw.stop() == 0
        approvals = [r for r in gw.records() if r["method"] == "server/approve"]
        assert [(r["server"], list(r["detail"]["tools"])) for r in approvals] == [
            ("changing", ["a"])
        ] * 2
        assert approvals[0]["detail"] != approvals[1]["detail"]
        assert_log_holds(gw)


def code_of(answer: httpx2.Response) -> int | None:
    error = answer.json().get("error")
    return None if error is None else int(error["code"])


# What it takes and what it leaves


def test_stdio_servers_end_with_the_gateway_however_that_ends(
    tmp_path: Path, issuer: Issuer
) -> None:
    servers = {"local": {"command": sys.executable, "args": [STDIO]}}
    gw = made(tmp_path, issuer, servers=servers, grants=allow_all("local"))
    with stopped_after(gw):
        for number in (signal.SIGKILL, signal.SIGTERM):
            gw.start()
            assert "result" in gw.call("local__echo").json()
            assert gw.process is not None
            children = children_of(gw.process.pid)
            assert len(children) == 1
            gw.stop(number)
            wait_for(lambda left=children: not any(map(is_alive, left)), "the child to end")


def test_an_idle_worker_and_its_idle_streams_are_small(
    tmp_path: Path, issuer: Issuer, faulty: str
) -> None:
    count = 200
    endless = {"url": f"{faulty}/mcp/sse-endless?on=subscriptions/listen&seconds=60"}
    changes = {
        "servers": {"endless": endless},
        "grants": allow_all("endless"),
        "limits": {"streams_per_agent": 2 * count},
    }
    with gateway(tmp_path, issuer, changes) as gw:
        assert gw.process is not None
        token = gw.token()
        streams = [open_stream(gw, token) for _ in range(20)]  # what is made once, is made
        before = rss_kib(gw.process.pid)
        assert before < 128 * 1024
        streams += [open_stream(gw, token) for _ in range(count)]
        each = (rss_kib(gw.process.pid) - before) / count
        for stream in streams:
            stream.close()
        assert each < STREAM_KIB, f"{each:.1f} KiB a stream"


STREAM_KIB = 16
"""Two connections, their parsers and a task take most of it."""


def open_stream(gw: Gateway, token: str) -> socket.socket:
    """A subscription whose first bytes have arrived."""
    message = modern_message("subscriptions/listen", {"notifications": {}})
    request = httpx2.Request(
        "POST", f"{gw.url}/mcp/endless", json=message, headers=modern_headers(message, token)
    )
    head = b"".join(name + b": " + value + b"\r\n" for name, value in request.headers.raw)
    stream = socket.create_connection(("127.0.0.1", request.url.port or 80), timeout=10)
    stream.sendall(b"POST /mcp/endless HTTP/1.1\r\n" + head + b"\r\n" + request.read())
    first = stream.recv(4096)
    assert first.startswith(b"HTTP/1.1 200"), first
    return stream


def test_what_it_says_holds_no_token_and_no_secret(
    tmp_path: Path, issuer: Issuer, faulty: str
) -> None:
    canary = tmp_path / "canary.jsonl"
    with faulty_server("--record", str(canary)) as upstream:
        servers = {
            "ok": {"url": f"{upstream}/mcp/ok"},
            "bad": {"url": f"{upstream}/mcp/garbage?on=tools/call"},
            "keyed": {"url": f"{upstream}/mcp/ok?k", "headers": {"X-Key": "upstream-secret"}},
        }
        changes = {"servers": servers, "grants": allow_all(*servers)}
        env = {"AGENTGW_LOG_LEVEL": "DEBUG"}
        with gateway(tmp_path, issuer, changes, env=env) as gw:
            token = gw.token()
            for name in servers:
                gw.call(f"{name}__echo", token)
            gw.call("ok__echo", token + "x")
            gw.call("ok__echo", gw.token(exp=1))
            with gw.client() as client:
                client.post(
                    "/oauth/token", auth=("planner", "planner-secret-for-tests"), data={"a": "b"}
                )
                client.post("/oauth/token", auth=("planner", "wrong-secret"), data={"a": "b"})
            gw.reload()
            assert gw.stop() == 0
        everything = gw.output + (gw.state / "log" / "gw-1" / "00000001.jsonl").read_text()
    assert "DEBUG" in gw.output
    for secret in (
        "planner-secret-for-tests",
        "wrong-secret",
        "upstream-secret",
        "eyJ",
        token.split(".")[2],
    ):
        assert secret not in everything, secret


# Several workers


def workers_of(gw: Gateway) -> set[int]:
    assert gw.process is not None
    return children_of(gw.process.pid)


def test_two_workers_serve_reload_are_replaced_and_end_together(
    tmp_path: Path, issuer: Issuer, faulty: str
) -> None:
    changes = {"servers": {"ok": {"url": f"{faulty}/mcp/ok"}}, "grants": allow_all("ok")}
    gw = made(tmp_path, issuer, **changes)
    gw.arguments = ("--workers", "2")
    with stopped_after(gw.start()):
        wait_for(lambda: len(workers_of(gw)) == 2, "two workers")
        session = open_session(gw)
        until_both_answered(gw, session)

        gw.config["grants"] = []
        gw.reload()
        wait_for(lambda: gw.output.count("reloaded: ") == 2, "both to reload")
        codes = {code_of(gw.call("ok__echo")) for _ in range(20)}
        assert codes == {46001}
        gw.config["grants"] = allow_all("ok")
        gw.reload()
        wait_for(lambda: gw.output.count("reloaded: ") == 4, "both to reload again")

        before = workers_of(gw)
        os.kill(min(before), signal.SIGKILL)
        wait_for(lambda: len(workers_of(gw) - before) == 1, "a new worker")
        assert "was ended by signal 9; it is started again" in gw.output
        until_both_answered(gw, session)

        left = workers_of(gw)
        assert gw.stop() == 0, gw.output
        assert not any(map(is_alive, left))
        assert_log_holds(gw)
        assert {r["log"] for r in gw.records()} == {"gw-1", "gw-2"}


def open_session(gw: Gateway) -> dict[str, str]:
    """A handshake session's headers."""
    headers = {"Accept": "application/json, text/event-stream"}
    params = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "tests", "version": "1"},
    }
    message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
    with gw.client(gw.token()) as client:
        answer = client.post("/mcp", json=message, headers=headers)
    assert answer.status_code == 200, answer.text
    return {
        **headers,
        "Mcp-Session-Id": answer.headers["Mcp-Session-Id"],
        "MCP-Protocol-Version": "2025-11-25",
    }


def until_both_answered(gw: Gateway, session: dict[str, str]) -> None:
    """Call in the session over ever new connections, until both logs have grown by it."""
    params = {"name": "ok__echo", "arguments": {}}
    message = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params}
    token = gw.token()
    answered: set[str] = set()

    def both() -> bool:
        with gw.client(token) as client:
            answer = client.post("/mcp", json=message, headers=session)
        assert answer.status_code == 200 and "result" in answer.json(), answer.text
        event = answer.headers["Agentgw-Event-Id"]
        answered.update(r["log"] for r in gw.records() if r.get("event_id") == event)
        return answered == {"gw-1", "gw-2"}

    wait_for(both, "an answer of each worker")


def test_workers_end_when_their_parent_is_killed(
    tmp_path: Path, issuer: Issuer, faulty: str
) -> None:
    gw = made(tmp_path, issuer, workers=2)
    with stopped_after(gw.start()):
        wait_for(lambda: len(workers_of(gw)) == 2, "two workers")
        left = workers_of(gw)
        gw.stop(signal.SIGKILL)
        wait_for(lambda: not any(map(is_alive, left)), "the workers to end", 10)
        assert "the parent process is gone; stopping" in gw.output
        assert_log_holds(gw)
