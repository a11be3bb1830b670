"""An auditor finds one call, shows that the log is whole, and finds the byte that somebody changed."""

from __future__ import annotations

import asyncio
import json
import shutil
import time

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from agentgw.demo.stage import Stage
from examples.agents.laptop import laptop


async def one_call(url: str, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        httpx2.AsyncClient(headers=headers, trust_env=False) as http,
        Client(streamable_http_client(url, http_client=http)) as mcp,
    ):
        await mcp.call_tool("tickets__read_ticket", {"id": 42})


def read(it: Stage) -> None:
    found = it.command(
        "audit", "search", "--tool", "read_ticket", "--json", "--state-dir", str(it.state)
    )
    records = [json.loads(line) for line in found.stdout.splitlines()]
    decision = next(record for record in records if record["phase"] == "decision")
    assert decision["decision"] == "allow" and decision["subject"]["sub"] == "alice"
    print("record", decision["seq"], "says who:", [hop["id"] for hop in decision["chain"]])

    # A checkpoint kept elsewhere is what makes later changes show; the gateway signs one each second.
    checkpoint = it.state / "log" / "gw-1" / "checkpoint"
    while not checkpoint.exists() or int(checkpoint.read_text().split("\n")[1]) <= decision["seq"]:
        time.sleep(0.1)
    held = shutil.copy(checkpoint, it.folder / "held")
    vkey = (it.state / "keys" / "checkpoints.vkey").read_text().strip()
    against = ("--key", vkey, "--checkpoint", str(held), "--json")

    whole = it.command("audit", "verify", str(it.state / "log"), *against)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    print("whole:", whole.stdout.strip())

    forged = shutil.copytree(it.state / "log", it.folder / "forged")
    segment = next(forged.glob("gw-1/*.jsonl"))
    lines = segment.read_bytes().split(b"\n")
    lines[decision["seq"]] = lines[decision["seq"]].replace(b'"sub":"alice"', b'"sub":"alyce"')
    segment.write_bytes(b"\n".join(lines))
    bad = it.command("audit", "verify", str(forged), *against)
    assert bad.returncode == 6
    assert json.loads(bad.stdout)["first_bad"]["id"] == decision["id"]
    print("forged:", bad.stdout.strip())


with laptop(__file__) as it:
    token = it.issuer.token("alice", "planner", f"{it.gateway}/mcp")
    asyncio.run(one_call(f"{it.gateway}/mcp", token))
    read(it)
