"""A whole gateway whose token key lies in a SoftHSM."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from agentgw.verify import CallVerifier
from tests.harness import ROOT, Gateway, Issuer, allow_all, faulty_server, gateway
from tests.sts.softhsm import PIN, SoftHsm, softhsm

pytestmark = [pytest.mark.hsm, pytest.mark.anyio]


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftHsm]:
    """One token; this process leaves it to the gateways to open."""
    with softhsm(tmp_path_factory.mktemp("hsm")) as made:
        made.make("ES256", "es-1")
        yield made


def configured(token: SoftHsm, **changes: Any) -> dict[str, Any]:
    told = {
        "module": str(token.module),
        "token": token.token,
        "pin": PIN,
        "keys": {"ES256": ["es-1"]},
    }
    return {**told, **changes}


async def test_a_gateway_signs_every_call_in_the_device(
    token: SoftHsm, tmp_path: Path, issuer: Issuer
) -> None:
    canary = tmp_path / "canary.jsonl"
    with faulty_server("--record", str(canary)) as upstream:
        url = f"{upstream}/mcp/ok"
        changes = {
            "servers": {"ok": {"url": url}},
            "grants": allow_all("ok"),
            "workers": 2,
            "keys": {"hsm": configured(token), "rotate_every": "30d"},
        }
        with gateway(tmp_path, issuer, changes, env=token.env) as gw:
            verifier = CallVerifier(gw.url, url)
            for _ in range(4):
                assert gw.call("ok__echo", text="x").status_code == 200
            kids = set()
            for line in canary.read_bytes().splitlines():
                request = json.loads(line)
                made = request["headers"]["authorization"].removeprefix("Bearer ")
                kids.add(jwt.get_unverified_header(made)["kid"])
                if json.loads(request["body"])["method"] == "tools/call":
                    await verifier.verify(made, json.loads(request["body"]))
            await verifier.close()
            rows = listed(gw, token)
            assert (rows[0]["place"], rows[0]["state"]) == ("hsm", "current")
            assert kids == {rows[0]["kid"]}
            assert not [
                row for row in rows if row["purpose"] == "tokens" and row["place"] == "file"
            ]
            assert gw.stop() == 0 and PIN not in gw.output


def listed(gw: Gateway, token: SoftHsm) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "agentgw", "keys", "list", "--json", "--config", str(gw.file)],
        capture_output=True, text=True, check=True, cwd=ROOT, timeout=30,
        env={"PATH": "", "HOME": str(gw.folder), **token.env},
    )  # fmt: skip
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def test_a_wrong_pin_ends_the_start_with_exit_3_and_is_not_shown(
    token: SoftHsm, tmp_path: Path, issuer: Issuer
) -> None:
    changes = {"keys": {"hsm": configured(token, pin="93472811")}}
    with gateway(tmp_path, issuer, changes, ready=False, env=token.env) as gw:
        assert gw.process is not None and gw.process.wait(20) == 3
        assert "the HSM does not take the PIN" in gw.output and "93472811" not in gw.output


def test_a_device_that_is_gone_refuses_calls_and_leaves_a_record(
    tmp_path: Path, issuer: Issuer, faulty: str
) -> None:
    (tmp_path / "hsm").mkdir()
    with softhsm(tmp_path / "hsm") as lost:
        lost.make("ES256", "es-1")
        changes = {
            "servers": {"ok": {"url": f"{faulty}/mcp/ok"}},
            "grants": allow_all("ok"),
            "keys": {"hsm": configured(lost)},
        }
        with gateway(tmp_path, issuer, changes, env=lost.env) as gw:
            assert gw.call("ok__echo", text="x").status_code == 200
            shutil.rmtree(lost.folder / "tokens")
            refused = gw.call("ok__echo", text="x")
            assert refused.status_code == 503 and refused.json()["error"]["code"] == 46004
            assert gw.stop() == 0
            last = [r for r in gw.records() if r["phase"] == "outcome" and r["name"] == "echo"][-1]
            assert last["outcome"] == "failed" and "no token signed" in last["error"]
