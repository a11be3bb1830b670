"""One user's calls reach another's process of a stdio server, or what that one keeps."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from agentgw.launch import landlock
from tests.harness import (
    ROOT,
    Gateway,
    Issuer,
    allow_all,
    gateway,
    modern_call,
    modern_headers,
    modern_message,
    wait_for,
)

KEEPER = str(ROOT / "tests" / "keeper_server.py")
USERS = ("alice", "bob")


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    started = Issuer().start()
    yield started
    started.stop()


@contextmanager
def keeping(
    tmp_path: Path, issuer: Issuer, limits: dict[str, Any] | None = None, **server: Any
) -> Iterator[Gateway]:
    how = {"command": sys.executable, "args": [KEEPER], "era": "handshake", "isolation": "subject"}
    changes: dict[str, Any] = {"servers": {"keeper": {**how, **server}}}
    changes |= {"grants": allow_all("keeper"), "limits": limits or {}}
    with gateway(tmp_path, issuer, changes) as gw:
        yield gw


def kept(gw: Gateway, user: str, tool: str = "keep", **arguments: Any) -> dict[str, Any]:
    """What the keeper says to a call of `user`: what it holds, where, and for whom."""
    answer = gw.call(f"keeper__{tool}", gw.token(sub=user), **arguments).json()
    assert "result" in answer, answer
    told: dict[str, Any] = json.loads(answer["result"]["content"][0]["text"])
    return told


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def interleaved(gw: Gateway, calls: int) -> list[tuple[str, dict[str, Any]]]:
    """Both users call `calls` times, all at the same time; who called, and what they were told."""
    tokens = {user: gw.token(sub=user) for user in USERS}
    at_once = asyncio.Semaphore(16)

    async def call(client: httpx2.AsyncClient, user: str, n: int) -> tuple[str, dict[str, Any]]:
        message = modern_call("keeper__keep", {"note": f"{user}-{n}"}, n)
        async with at_once:
            headers = modern_headers(message, tokens[user])
            response = await client.post("/mcp", json=message, headers=headers)
        return user, json.loads(response.json()["result"]["content"][0]["text"])

    async with httpx2.AsyncClient(base_url=gw.url, timeout=60) as client:
        pairs = [call(client, user, n) for n in range(calls) for user in USERS]
        return await asyncio.gather(*pairs)


def test_two_users_that_interleave_many_calls_see_nothing_of_each_other(
    tmp_path: Path, issuer: Issuer
) -> None:
    with keeping(tmp_path, issuer) as gw:
        told = asyncio.run(interleaved(gw, calls=300))
        pids: dict[str, set[int]] = {user: set() for user in USERS}
        for user, said in told:
            assert said["subject"] == f"laptop|{user}"
            for note in (*said["kept"], *said["written"]):
                assert note.startswith(f"{user}-")
            pids[user].add(said["pid"])
        assert all(len(of_one) == 1 for of_one in pids.values())
        assert not pids["alice"] & pids["bob"]
        for user in USERS:
            assert len(kept(gw, user)["kept"]) == 300


def test_each_process_has_a_folder_of_its_own_named_by_nothing_a_user_chose(
    tmp_path: Path, issuer: Issuer
) -> None:
    with keeping(tmp_path, issuer) as gw:
        folders = {kept(gw, user)["folder"] for user in ("../../x", "alice", "Alice", "a/b", "*")}
        assert len(folders) == 5
        own = gw.state / "servers" / "keeper"
        for folder in folders:
            assert Path(folder).parent == own
            assert Path(folder).stat().st_mode & 0o077 == 0


def test_a_link_in_the_place_of_a_users_folder_leads_nowhere(
    tmp_path: Path, issuer: Issuer
) -> None:
    with keeping(tmp_path, issuer) as gw:
        folder = Path(kept(gw, "alice")["folder"])
        folder.rmdir()
        folder.symlink_to(gw.state / "keys")
        gw.call("keeper__die", gw.token(sub="alice"))
        assert kept(gw, "bob")["written"] == []
    with gateway(
        tmp_path, issuer, {"servers": gw.config["servers"], "grants": allow_all("keeper")}
    ) as gw:
        refused = gw.call("keeper__keep", gw.token(sub="alice"), note="x").json()
        assert refused["error"]["code"] == 46005
        assert "it is a link" in refused["error"]["message"]
        assert not (gw.state / "keys" / "notes").exists()
        assert kept(gw, "bob", note="x")["written"] == ["x"]


@pytest.mark.skipif(
    landlock.abi() < landlock.NEEDED_ABI, reason="this kernel has no Landlock, or too little"
)
def test_shut_in_as_well_one_users_process_finds_no_folder_of_anothers(
    tmp_path: Path, issuer: Issuer
) -> None:
    read = [str(Path(sys.base_prefix)), str(Path(sys.prefix)), str(ROOT)]
    spy = str(ROOT / "tests" / "spy_server.py")
    with keeping(tmp_path, issuer, args=[spy], sandbox={"kind": "landlock", "read": read}) as gw:

        def told(user: str, tool: str, path: str) -> str:
            answer = gw.call(f"keeper__{tool}", gw.token(sub=user), path=path).json()
            return str(answer["result"]["content"][0]["text"])

        assert told("alice", "write", "note") == "written"
        note = f"{told('alice', 'where', '')}/note"
        assert told("alice", "read", note) == "spy was here"
        assert "refused" in told("bob", "read", note)


def test_lists_of_a_users_own_come_from_their_own_process(tmp_path: Path, issuer: Issuer) -> None:
    with keeping(tmp_path, issuer) as gw:

        def listed(user: str, method: str) -> dict[str, Any]:
            message = modern_message(method, {})
            with gw.client() as client:
                headers = modern_headers(message, gw.token(sub=user))
                answer = client.post("/mcp/keeper", json=message, headers=headers).json()
            assert "result" in answer, answer
            result: dict[str, Any] = answer["result"]
            return result

        kept(gw, "alice", note="hers")
        assert [each["name"] for each in listed("alice", "resources/list")["resources"]] == ["hers"]
        assert listed("bob", "resources/list")["resources"] == []
        for user in USERS:
            assert {tool["name"] for tool in listed(user, "tools/list")["tools"]} == {"keep", "die"}


def test_a_process_that_dies_takes_nobody_elses_along(tmp_path: Path, issuer: Issuer) -> None:
    with keeping(tmp_path, issuer) as gw:
        bobs = kept(gw, "bob", note="b")["pid"]
        kept(gw, "alice", note="a")
        died = gw.call("keeper__die", gw.token(sub="alice")).json()
        assert died["error"]["code"] == 46005
        assert kept(gw, "bob")["pid"] == bobs
        assert kept(gw, "alice")["kept"] == []


def test_a_revoked_users_process_ends_and_no_other(tmp_path: Path, issuer: Issuer) -> None:
    with keeping(tmp_path, issuer) as gw:
        hers, bobs = kept(gw, "alice")["pid"], kept(gw, "bob")["pid"]
        revoke(gw, "laptop|alice")
        wait_for(lambda: not running(hers), "her process to end")
        assert kept(gw, "bob")["pid"] == bobs
        refused = gw.call("keeper__keep", gw.token(sub="alice")).json()
        assert refused["error"]["code"] == 46003


def revoke(gw: Gateway, user: str) -> None:
    gw.command("revoke", "--subject", user)


def test_no_more_processes_than_allowed_and_the_longest_idle_makes_way(
    tmp_path: Path, issuer: Issuer
) -> None:
    with keeping(tmp_path, issuer, limits={"processes_per_server": 2}) as gw:
        pids = [kept(gw, user, note="x")["pid"] for user in ("a", "b", "c", "d")]
        wait_for(lambda: sum(map(running, pids)) <= 2, "the first to have made way")
        assert running(pids[-1])
        assert kept(gw, "a")["kept"] == []


def test_a_server_taken_out_ends_all_its_processes(tmp_path: Path, issuer: Issuer) -> None:
    with keeping(tmp_path, issuer) as gw:
        pids = [kept(gw, user)["pid"] for user in USERS]
        gw.config["servers"] = {}
        gw.config["grants"] = []
        gw.reload()
        wait_for(lambda: not any(map(running, pids)), "its processes to end")


def test_they_end_with_the_gateway(tmp_path: Path, issuer: Issuer) -> None:
    with keeping(tmp_path, issuer) as gw:
        pids = [kept(gw, user)["pid"] for user in USERS]
        assert gw.stop() == 0
        assert not any(map(running, pids))
