"""Key files of a running gateway: sealed, sealed anew, and never lost."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from pathlib import Path

from agentgw.audit.verify import verify
from agentgw.core.checkpoint import parse_vkey
from tests.harness import ROOT, Gateway, Issuer, allow_all, gateway


def write_key(folder: Path, name: str) -> str:
    file = folder / name
    file.touch(mode=0o600)
    file.write_text(secrets.token_hex(32))
    return str(file)


def published(gw: Gateway) -> object:
    with gw.client() as client:
        return client.get("/oauth/jwks.json").json()


def sealed_files(gw: Gateway) -> dict[str, str]:
    """Of each key file the protected header, which names its wrapping key; empty where it is plain."""
    files = (gw.state / "keys").glob("*.json")
    return {file.name: json.loads(file.read_text()).get("protected", "") for file in files}


def test_a_reload_seals_the_key_files_and_refuses_a_key_that_does_not_open_them(
    tmp_path: Path, issuer: Issuer
) -> None:
    first, second = write_key(tmp_path, "first.key"), write_key(tmp_path, "second.key")
    with gateway(tmp_path, issuer, {}) as gw:
        keys = published(gw)
        assert set(sealed_files(gw).values()) == {""}
        gw.config["keys"] = {"wrap": {"file": first}}
        gw.reload()
        sealed = sealed_files(gw)
        assert all(sealed.values()) and published(gw) == keys
        for wrong in ({"wrap": {"file": second}}, {}):
            gw.config["keys"] = wrong
            gw.reload()
            assert "reload refused" in gw.output.splitlines()[-1]
            assert sealed_files(gw) == sealed and published(gw) == keys
        gw.config["keys"] = {"wrap": {"file": second, "previous": {"file": first}}}
        gw.reload()
        again = sealed_files(gw)
        assert all(again[name] not in ("", sealed[name]) for name in sealed)
        assert published(gw) == keys
        gw.config["keys"] = {"wrap": {"file": second}}
        gw.reload()
        assert gw.stop() == 0
        gw.start()
        assert published(gw) == keys and sealed_files(gw) == again


def rotate_checkpoint_key(gw: Gateway) -> str:
    done = gw.command("keys", "rotate", "--purpose", "checkpoints")
    assert "from the next start" in done.stderr
    return done.stdout.strip()


def verified(gw: Gateway, *vkeys: str) -> tuple[bool, bool]:
    """What both verifiers say, given these keys."""
    ours = verify(gw.state / "log", [parse_vkey(vkey) for vkey in vkeys])
    keys = [word for vkey in vkeys for word in ("--key", vkey)]
    other = subprocess.run(
        [sys.executable, str(ROOT / "tools/verify_log.py"), str(gw.state / "log"), *keys],
        capture_output=True, check=False, timeout=30,
    )  # fmt: skip
    return ours.ok, other.returncode == 0


def test_both_verifiers_follow_the_log_over_a_change_of_the_checkpoint_key(
    tmp_path: Path, issuer: Issuer, faulty: str
) -> None:
    changes = {"servers": {"ok": {"url": f"{faulty}/mcp/ok"}}, "grants": allow_all("ok")}
    with gateway(tmp_path, issuer, changes) as gw:
        vkey = gw.state / "keys" / "checkpoints.vkey"
        old = vkey.read_text().strip()
        assert gw.call("ok__echo", text="x").status_code == 200
        new = rotate_checkpoint_key(gw)
        assert gw.call("ok__echo", text="x").status_code == 200
        assert gw.stop() == 0 and vkey.read_text().strip() == old != new
        assert verified(gw, old) == (True, True)
        gw.start()
        assert gw.call("ok__echo", text="x").status_code == 200
        assert gw.stop() == 0 and vkey.read_text().strip() == new
        assert verified(gw, old, new) == (True, True)
        assert verified(gw, old) == verified(gw, new) == (False, False)
