"""No record, no call and no token: what a gateway does whose log cannot be written, and after that."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.harness import Gateway, Issuer, allow_all, base_config, faulty_server, free_port
from tests.integration.load import assert_log_holds, tokens_seen

RECOVERY_SECONDS = 5.0


@contextmanager
def recorded_gateway(
    folder: Path, issuer: Issuer, state: Path, preexec: Callable[[], None] | None = None
) -> Iterator[tuple[Gateway, Path]]:
    """A gateway with its state in `state`, and the record of what reached its tool server."""
    canary = folder / "canary.jsonl"
    with faulty_server("--record", str(canary)) as upstream:
        config = base_config(issuer, f"http://127.0.0.1:{free_port()}", folder)
        config |= {"servers": {"ok": {"url": f"{upstream}/mcp/ok"}}, "grants": allow_all("ok")}
        config["state_dir"] = str(state)
        gw = Gateway(folder, issuer, config, preexec=preexec)
        try:
            yield gw.start(), canary
        finally:
            gw.kill()


def exchange(gw: Gateway) -> httpx2.Response:
    """Ask for planner's own token to continue with, as planner."""
    form = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": gw.token(),
        "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "resource": f"{gw.url}/mcp",
    }
    with gw.client() as client:
        return client.post("/oauth/token", data=form, auth=("planner", "planner-secret-for-tests"))


def assert_refuses_everything(gw: Gateway, canary: Path) -> None:
    """503 to calls, lists and exchanges, with when to come back; nothing leaves; /readyz says so."""
    before = tokens_seen(canary)
    call = gw.call("ok__echo")
    assert call.status_code == 503, call.text
    assert int(call.headers["Retry-After"]) >= 1
    assert call.json()["error"]["code"] == 46004
    with gw.client() as client:
        ready = client.get("/readyz")
        assert (ready.status_code, ready.text) == (503, "not ready\n")
        assert client.get("/livez").status_code == 200
    token = exchange(gw)
    assert token.status_code == 503 and "access_token" not in token.text
    assert token.headers["Cache-Control"] == "no-store"
    assert tokens_seen(canary) == before


def assert_recovers(gw: Gateway) -> None:
    """By itself, within seconds, and the log tells of the gap and verifies."""
    began = time.monotonic()
    while gw.call("ok__echo").status_code != 200:
        assert time.monotonic() - began < RECOVERY_SECONDS, gw.output
        time.sleep(0.05)
    assert gw.is_ready()
    assert exchange(gw).status_code == 200
    assert gw.stop() == 0
    events = {r["method"]: r for r in gw.records() if r["phase"] == "event"}
    assert "log/recovered" in events and events["log/gap"]["refused"] >= 2
    assert_log_holds(gw)


def until_refused(gw: Gateway) -> None:
    """Call until the fault shows."""
    deadline = time.monotonic() + 20
    while gw.call("ok__echo", text="x" * 2000).status_code == 200:
        assert time.monotonic() < deadline


def log_size(gw: Gateway) -> int:
    return sum(file.stat().st_size for file in (gw.state / "log").glob("*/*.jsonl"))


def test_a_limit_on_file_sizes_stops_calls_until_it_is_lifted(
    tmp_path: Path, issuer: Issuer
) -> None:
    """RLIMIT_FSIZE fails writes with EFBIG (and raises SIGXFSZ, which Python ignores)."""
    with recorded_gateway(tmp_path, issuer, tmp_path / "state") as (gw, canary):
        assert gw.call("ok__echo").status_code == 200
        assert gw.process is not None
        limits = resource.prlimit(gw.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(gw.process.pid, resource.RLIMIT_FSIZE, (log_size(gw) + 100, limits[1]))
        until_refused(gw)
        assert_refuses_everything(gw, canary)
        resource.prlimit(gw.process.pid, resource.RLIMIT_FSIZE, limits)
        assert_recovers(gw)
        assert gw.output.count("calls are refused until it can") >= 1
        assert "can be written again" in gw.output


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB; skips where we may not mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_stops_calls_until_there_is_room(
    tmp_path: Path, issuer: Issuer, small_disk: Path
) -> None:
    with recorded_gateway(tmp_path, issuer, small_disk / "state") as (gw, canary):
        assert gw.call("ok__echo").status_code == 200
        ballast = small_disk / "ballast"
        with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
            while True:
                file.write(b"x" * 4096)
        until_refused(gw)
        assert_refuses_everything(gw, canary)
        # Nor is there room for the key of somebody new.
        assert gw.call("ok__echo", gw.token(sub="bob")).status_code == 503
        ballast.unlink()
        assert gw.process is not None and gw.process.poll() is None
        assert_recovers(gw)


def test_a_start_without_room_for_the_state_ends_with_one_line(
    tmp_path: Path, issuer: Issuer, small_disk: Path
) -> None:
    config = base_config(issuer, f"http://127.0.0.1:{free_port()}", tmp_path)
    gw = Gateway(tmp_path, issuer, {**config, "state_dir": str(small_disk / "state")})
    with (small_disk / "ballast").open("wb", buffering=0) as file, pytest.raises(OSError):
        while True:
            file.write(b"x" * 4096)
    gw.start(ready=False)
    assert gw.process is not None
    assert gw.process.wait(20) == 1
    assert gw.output.startswith("error: ") and gw.output.count("\n") == 1, gw.output
