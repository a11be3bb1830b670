"""SIGTERM loses no call, and neither does a reload or a rotation of keys."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from base64 import urlsafe_b64decode
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from agentgw.sts.keys import KeyRing
from agentgw.verify import CallVerifier
from tests.harness import (
    ROOT,
    Gateway,
    Issuer,
    allow_all,
    faulty_server,
    gateway,
    modern_headers,
    modern_message,
    wait_for,
)
from tests.integration.load import assert_log_holds, calling

STDIO = str(ROOT / "tools/servers/stdio_echo.py")


def http(faulty: str, *names: str) -> dict[str, Any]:
    """Working HTTP servers of these names."""
    return {name: {"url": f"{faulty}/mcp/ok?as={name}"} for name in names}


def stdio(*arguments: str, **more: Any) -> dict[str, Any]:
    """A working stdio server."""
    return {"command": sys.executable, "args": [STDIO, *arguments], **more}


def outcomes(gw: Gateway, tool: str) -> list[str]:
    return [r["outcome"] for r in gw.records() if r["phase"] == "outcome" and r["name"] == tool]


def decided(gw: Gateway, tool: str) -> int:
    return sum(r["phase"] == "decision" and r["name"] == tool for r in gw.records())


def listening(gw: Gateway) -> bool:
    return any(r["method"] == "subscriptions/listen" for r in gw.records())


def send(gw: Gateway, method: str, path: str = "/mcp", **params: Any) -> httpx2.Response:
    message = modern_message(method, params)
    with gw.client() as client:
        return client.post(path, json=message, headers=modern_headers(message, gw.token()))


def test_sigterm_finishes_calls_in_flight_ends_streams_and_takes_no_new_ones(
    tmp_path: Path, issuer: Issuer, faulty: str
) -> None:
    endless = {"url": f"{faulty}/mcp/sse-endless?on=subscriptions/listen"}
    servers = {**http(faulty, "ok"), "local": stdio(), "endless": endless}
    changes = {"servers": servers, "grants": allow_all("ok", "local", "endless")}
    with gateway(tmp_path, issuer, changes) as gw, ThreadPoolExecutor(8) as pool:
        stream = pool.submit(send, gw, "subscriptions/listen", "/mcp/endless", notifications={})
        slow = [
            pool.submit(gw.call, f"{name}__slow", None, seconds=4) for name in ("ok", "local") * 2
        ]
        steps: dict[str, Any] = {
            "arguments": {"steps": 3, "seconds": 0.5},
            "_meta": {"progressToken": "p"},
        }
        told = pool.submit(send, gw, "tools/call", name="ok__progress", **steps)
        wait_for(lambda: decided(gw, "slow") == 4 and decided(gw, "progress") == 1, "the calls")
        wait_for(lambda: listening(gw), "the stream")
        began = time.monotonic()
        assert gw.process is not None
        gw.process.send_signal(signal.SIGTERM)
        wait_for(lambda: refuses_connections(gw.url), "the listener to close")
        assert not any(call.done() for call in slow)
        answers = [call.result(10) for call in slow]
        assert [answer.json()["result"]["isError"] for answer in answers] == [False] * 4
        events = told.result(10).text
        assert events.count("notifications/progress") == 3 and '"result"' in events
        assert '"code":46003' in stream.result(10).text
        assert gw.process.wait(20) == 0 and time.monotonic() - began < 15
        assert outcomes(gw, "slow") == ["ok"] * 4 and outcomes(gw, "progress") == ["ok"]
        assert_log_holds(gw)


def refuses_connections(url: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", urlsplit(url).port or 0)) != 0


def test_a_second_sigterm_does_not_wait_and_records_what_was_given_up(
    tmp_path: Path, issuer: Issuer, faulty: str
) -> None:
    changes = {"servers": http(faulty, "ok"), "grants": allow_all("ok")}
    with gateway(tmp_path, issuer, changes) as gw, ThreadPoolExecutor(1) as pool:
        call = pool.submit(gw.call, "ok__slow", seconds=20)
        wait_for(lambda: decided(gw, "slow") == 1, "the call")
        assert gw.process is not None
        gw.process.send_signal(signal.SIGTERM)
        wait_for(lambda: "stopping: calls in flight have 62 s to finish" in gw.output, "the drain")
        # The same signal by another way (a process group's, say) is none of impatience.
        gw.process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            gw.process.wait(1.2)
        gw.process.send_signal(signal.SIGTERM)
        assert gw.process.wait(5) == 0
        assert call.exception(5) is not None or "result" not in call.result().text
        assert outcomes(gw, "slow") == ["cancelled"]
        assert_log_holds(gw)


def test_reloads_under_load_fail_no_call(tmp_path: Path, issuer: Issuer, faulty: str) -> None:
    """Neither where the servers' own settings change, nor where one comes and goes."""
    servers = {**http(faulty, "ok"), "local": stdio()}
    changes = {"servers": servers, "grants": allow_all("ok", "local")}
    turn = iter(range(10**9))

    def tool() -> tuple[str, dict[str, Any]]:
        name = ("ok__echo", "local__echo", "ok__slow", "local__slow")[next(turn) % 4]
        return name, {"seconds": 0.15}

    with gateway(tmp_path, issuer, changes) as gw, calling(gw, 4, tool=tool) as callers:
        callers.more(8)
        for number in range(20):
            timeout = 20 + number  # the settings of both servers change each time
            config = {name: {**server, "timeout": timeout} for name, server in servers.items()}
            extra = number % 2 == 1
            gw.config["servers"] = config | (http(faulty, "extra") if extra else {})
            gw.config["grants"] = allow_all("ok", "local", *(["extra"] if extra else []))
            if number == 10:
                config["ok"]["url"] += "&moved=1"  # a new link; the old one's calls must end well
            gw.reload()
            callers.more()
        assert policy_applied(gw)
        callers.more(8)
        assert gw.output.count("reload refused") == 0, gw.output
        callers.stop()
        assert callers.failures == []
        assert gw.stop() == 0
        assert_log_holds(gw)
        assert len({r.get("policy_version") for r in gw.records()}) > 5


def policy_applied(gw: Gateway) -> bool:
    """Whether the newest configuration written is the one that was last applied."""
    checked = json.loads(gw.command("config", "check", "--json").stdout)
    version = "p-" + checked["digest"].removeprefix("sha-256:")[:12]
    applied = [line for line in gw.output.splitlines() if "reloaded: " in line]
    return bool(applied) and version in applied[-1]


def test_a_broken_file_keeps_the_last_good_configuration_and_says_so_in_one_line(
    tmp_path: Path, issuer: Issuer, faulty: str
) -> None:
    changes = {"servers": http(faulty, "ok"), "grants": allow_all("ok")}
    with gateway(tmp_path, issuer, changes) as gw:
        before = gw.output
        gw.config["servres"] = {}
        gw.reload()
        said = gw.output.removeprefix(before).splitlines()
        assert len(said) == 1 and "ERROR" in said[0]
        assert "reload refused, the last good configuration stays" in said[0]
        assert f"{gw.file}:" in said[0] and "did you mean 'servers'" in said[0]
        assert "result" in gw.call("ok__echo").json()
        del gw.config["servres"]
        gw.reload()
        assert "reloaded: p-" in gw.output.splitlines()[-1]


def test_the_next_call_sees_new_servers_new_grants_and_disabled_agents(
    tmp_path: Path, issuer: Issuer, faulty: str
) -> None:
    changes = {"servers": http(faulty, "ok"), "grants": allow_all("ok")}
    with gateway(tmp_path, issuer, changes) as gw, ThreadPoolExecutor(1) as pool:
        token = gw.token()
        assert "result" in gw.call("ok__echo", token).json()
        endless = {"url": f"{faulty}/mcp/sse-endless?on=subscriptions/listen"}
        gw.config["servers"] = {**http(faulty, "ok", "more"), "endless": endless}
        gw.config["grants"] = allow_all("more", "endless")
        gw.reload()
        stream = pool.submit(send, gw, "subscriptions/listen", "/mcp/endless", notifications={})
        wait_for(lambda: listening(gw), "the stream")
        assert gw.call("ok__echo", token).json()["error"]["code"] == 46001
        assert "result" in gw.call("more__echo", token).json()
        del gw.config["servers"]["ok"]
        gw.config["agents"]["planner"]["disabled"] = True
        gw.reload()
        assert '"code":46003' in stream.result(5).text
        refused = gw.call("more__echo", token).json()["error"]
        assert (refused["code"], refused["data"]["reason"]) == (46001, "unknown_agent")
        listed = send(gw, "tools/list").json()["result"]["tools"]
        assert listed == []
        reloads = [r for r in gw.records() if r["method"] == "config/reload"]
        assert len(reloads) == 2 and all("digest" in r["detail"] for r in reloads)


def test_a_changed_command_waits_for_a_restart_and_a_removed_one_for_its_calls(
    tmp_path: Path, issuer: Issuer
) -> None:
    changes = {"servers": {"local": stdio(env={"OLD": "1"})}, "grants": allow_all("local")}
    with gateway(tmp_path, issuer, changes) as gw, ThreadPoolExecutor(1) as pool:
        names = gw.call("local__env").json()["result"]["content"][0]["text"]
        assert "OLD" in names
        pids = children_of(gw)
        gw.config["servers"]["local"] = stdio(env={"NEW": "1"}, timeout=7)
        gw.config["listen"] = "127.0.0.1:1"
        gw.reload()
        wait_for(lambda: "stay as they were: listen, servers.local.env" in gw.output, "the word")
        names = gw.call("local__env").json()["result"]["content"][0]["text"]
        assert "OLD" in names and "NEW" not in names
        assert children_of(gw) == pids
        gw.config["listen"] = gw.url.removeprefix("http://")
        assert gw.stop(signal.SIGINT) == 0
        gw.start()
        assert "NEW" in gw.call("local__env").json()["result"]["content"][0]["text"]
        assert len(children_of(gw)) == 1
        call = pool.submit(gw.call, "local__slow", None, seconds=1)
        wait_for(lambda: decided(gw, "slow") == 1, "the call")
        gw.config |= {"servers": {}, "grants": []}
        gw.reload()
        assert "result" in call.result(10).json()
        wait_for(lambda: not children_of(gw), "the process to end")


def children_of(gw: Gateway) -> set[int]:
    """The processes whose parent is the gateway."""
    assert gw.process is not None
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(") ")[2].split()
        except OSError:
            continue
        if int(fields[1]) == gw.process.pid and fields[0] != "Z":
            found.add(int(stat.parent.name))
    return found


@pytest.mark.anyio
async def test_keys_rotate_while_calls_run_and_every_token_verifies(
    tmp_path: Path, issuer: Issuer
) -> None:
    canary = tmp_path / "canary.jsonl"
    with faulty_server("--record", str(canary)) as upstream:
        url = f"{upstream}/mcp/ok"
        changes = {"servers": {"ok": {"url": url}}, "grants": allow_all("ok")}
        with gateway(tmp_path, issuer, changes) as gw, calling(gw, 2) as callers:
            verifier = CallVerifier(gw.url, url)
            checked = 0

            async def check() -> int:
                """Verify as a tool server would, soon after the call."""
                lines = canary.read_bytes().rpartition(b"\n")[0].splitlines()[checked:]
                for line in lines:
                    request = json.loads(line)
                    if json.loads(request["body"])["method"] == "tools/call":
                        token = request["headers"]["authorization"].removeprefix("Bearer ")
                        await verifier.verify(token, json.loads(request["body"]))
                return len(lines)

            callers.more(4)
            checked += await check()
            known = signed_under(canary)
            KeyRing(gw.state).rotate(min_age=0)
            wait_for(lambda: signed_under(canary) - known, "the new key")
            callers.more(4)
            checked += await check()
            callers.stop()
            assert callers.failures == []
            assert len(signed_under(canary)) == 2
            await check()
            await verifier.close()


@pytest.mark.anyio
async def test_a_schedule_rotates_once_while_several_workers_serve(
    tmp_path: Path, issuer: Issuer
) -> None:
    """Keys of last month meet `rotate_every: 30d`; the server takes EdDSA, our own endpoints ES256."""
    canary = tmp_path / "canary.jsonl"
    old = KeyRing(
        tmp_path / "state",
        clock=lambda: time.time() - 40 * 86_400,
        algorithms=["ES256", "EdDSA"],
    )
    with faulty_server("--record", str(canary)) as upstream:
        url = f"{upstream}/mcp/ok"
        changes = {
            "servers": {"ok": {"url": url, "token": {"alg": "EdDSA"}}},
            "grants": allow_all("ok"),
            "workers": 2,
            "keys": {"rotate_every": "30d"},
        }
        with gateway(tmp_path, issuer, changes) as gw, calling(gw, 2) as callers:
            verifier = CallVerifier(gw.url, url)
            next_kid = old.rings["EdDSA"].next.kid
            wait_for(lambda: next_kid in kids_in(canary), "the next key to sign")
            callers.more(4)
            callers.stop()
            assert callers.failures == []
            assert kids_in(canary) <= {old.signing["EdDSA"].kid, next_kid}
            ring = KeyRing(gw.state)
            assert [len(ring.rings[alg].previous) for alg in ("ES256", "EdDSA")] == [1, 1]
            noted = [record for record in gw.records() if record["method"] == "keys/rotate"]
            assert sorted(record["detail"]["alg"] for record in noted) == ["ES256", "EdDSA"]
            for line in canary.read_bytes().splitlines():
                request = json.loads(line)
                if json.loads(request["body"])["method"] == "tools/call":
                    token = request["headers"]["authorization"].removeprefix("Bearer ")
                    await verifier.verify(token, json.loads(request["body"]))
            await verifier.close()


def kids_in(canary: Path) -> set[str]:
    """The kids of all tokens seen."""
    if not canary.exists():
        return set()
    heads = [head + "=" * (-len(head) % 4) for head in signed_under(canary)]
    return {json.loads(urlsafe_b64decode(head))["kid"] for head in heads}


def signed_under(canary: Path) -> set[str]:
    """The headers of all tokens seen: one per key."""
    whole, _, _ = canary.read_bytes().rpartition(b"\n")  # the last line may be in the writing
    requests = map(json.loads, whole.splitlines())
    tokens = (r["headers"]["authorization"] for r in requests if "headers" in r)
    return {token.removeprefix("Bearer ").partition(".")[0] for token in tokens}
