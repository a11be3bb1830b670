"""A stdio tool server that reads the gateway's secrets, writes where it should not, or calls home."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agentgw.core.sandbox import Sandbox, bubblewrap
from agentgw.launch import landlock
from tests.harness import ROOT, Gateway, Issuer, allow_all, gateway, wait_for

SPY = str(ROOT / "tests" / "spy_server.py")
SYSTEM_PYTHON = "/usr/bin/python3"


def _no_bubblewrap() -> str | None:
    """Why bubblewrap cannot shut anything in here."""
    program = shutil.which("bwrap")
    if program is None:
        return "bubblewrap is not installed"
    line = [program, "--ro-bind", "/", "/", "--unshare-pid", "--unshare-net", "true"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"bubblewrap cannot work here: {done.stderr.strip()}"


def _no_landlock() -> str | None:
    """Why Landlock cannot shut anything in here."""
    found = landlock.abi()
    if found >= landlock.NEEDED_ABI:
        return None
    return f"Landlock ABI {landlock.NEEDED_ABI} is needed, this kernel has {found or 'none'}"


def _no_other_user() -> str | None:
    """Why nothing can run as another user here."""
    if os.geteuid() != 0:
        return "only root can run a server as another user"
    if not Path(SYSTEM_PYTHON).exists():
        return f"{SYSTEM_PYTHON}, which other users may run, is not there"
    return None


def _skipped_for(reason: str | None) -> pytest.MarkDecorator:
    return pytest.mark.skipif(reason is not None, reason=reason or "")


LANDLOCK = pytest.param("landlock", marks=_skipped_for(_no_landlock()))
walled = pytest.mark.parametrize(
    "kind", [pytest.param("bwrap", marks=_skipped_for(_no_bubblewrap())), LANDLOCK]
)
landlocked = _skipped_for(_no_landlock())
as_another = _skipped_for(_no_other_user())


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    started = Issuer().start()
    yield started
    started.stop()


@contextmanager
def spying(tmp_path: Path, issuer: Issuer, **server: Any) -> Iterator[Gateway]:
    servers = {"spy": {"command": sys.executable, "args": [SPY], "era": "handshake", **server}}
    secrets = {"VENDOR_SECRET": "own", "LD_PRELOAD_X": "own", "NODE_OPTIONS": "--inspect"}
    changes = {"servers": servers, "grants": allow_all("spy")}
    with gateway(tmp_path, issuer, changes, env=secrets) as gw:
        yield gw


def told(gw: Gateway, tool: str, path: str = "") -> str:
    answer = gw.call(f"spy__{tool}", path=path).json()
    assert "result" in answer, answer
    return str(answer["result"]["content"][0]["text"])


def reading() -> list[str]:
    """Where this Python and this script lie, which the home folder may hide."""
    return [str(Path(sys.base_prefix)), str(Path(sys.prefix)), str(ROOT)]


def test_it_sees_little_of_our_environment_and_runs_in_a_folder_of_its_own(
    tmp_path: Path, issuer: Issuer
) -> None:
    with spying(tmp_path, issuer, env={"GIVEN": "x"}) as gw:
        names = set(told(gw, "env").split())
        assert "GIVEN" in names
        assert not names & {"VENDOR_SECRET", "LD_PRELOAD_X", "NODE_OPTIONS"}
        folder = gw.state / "servers" / "spy"
        assert told(gw, "where") == str(folder)
        assert folder.stat().st_mode & 0o077 == 0


@walled
def test_shut_in_it_finds_neither_keys_nor_log_nor_configuration(
    tmp_path: Path, issuer: Issuer, kind: str
) -> None:
    with spying(tmp_path, issuer, sandbox={"kind": kind, "read": reading()}) as gw:
        seen = told(gw, "read", str(gw.state))
        assert seen == "servers" if kind == "bwrap" else "refused" in seen
        for secret in ("keys", "agentgw.db", "log"):
            assert "refused" in told(gw, "read", str(gw.state / secret))
        assert "planner" not in told(gw, "read", str(gw.file))
        assert told(gw, "where") == str(gw.state / "servers" / "spy")


@walled
def test_shut_in_it_reads_nothing_of_the_gateways_own_process(
    tmp_path: Path, issuer: Issuer, kind: str
) -> None:
    with spying(tmp_path, issuer, sandbox={"kind": kind, "read": reading()}) as gw:
        assert gw.process is not None
        for part in ("environ", "maps", "root/etc/hostname"):
            assert "refused" in told(gw, "read", f"/proc/{gw.process.pid}/{part}")


@walled
def test_shut_in_it_writes_in_its_own_folder_only(
    tmp_path: Path, issuer: Issuer, kind: str
) -> None:
    outside, given = tmp_path / "outside", tmp_path / "given"
    outside.mkdir()
    given.mkdir()
    (outside / "log").write_text("what happened")
    sandbox = {"kind": kind, "read": [*reading(), str(outside)], "write": [str(given)]}
    with spying(tmp_path, issuer, sandbox=sandbox) as gw:
        assert "refused" in told(gw, "write", str(outside / "mark"))
        assert "refused" in told(gw, "write", "/etc/mark")
        assert "refused" in told(gw, "cut", str(outside / "log"))
        assert (outside / "log").read_text() == "what happened"
        assert told(gw, "write", str(given / "mark")) == "written"
        assert told(gw, "write", "mark") == "written"
        assert (gw.state / "servers" / "spy" / "mark").exists() and (given / "mark").exists()


@walled
@pytest.mark.parametrize("network", [False, True])
def test_shut_in_it_has_the_network_only_where_it_was_given(
    tmp_path: Path, issuer: Issuer, kind: str, network: bool
) -> None:
    sandbox = {"kind": kind, "network": network, "read": reading()}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as heard:
        heard.bind(("127.0.0.1", 0))
        heard.setblocking(False)
        with spying(tmp_path, issuer, sandbox=sandbox) as gw:
            port = gw.url.rpartition(":")[2]
            assert (told(gw, "dial", port) == "connected") is network
            told(gw, "send", str(heard.getsockname()[1]))
            if network:
                assert heard.recv(100) == b"spy was here"
            else:
                with pytest.raises(BlockingIOError):
                    heard.recv(100)


@walled
def test_shut_in_it_reaches_no_unix_socket_of_its_users(
    tmp_path: Path, issuer: Issuer, kind: str
) -> None:
    sandbox = {"kind": kind, "network": True, "read": reading()}
    with (
        socket.socket(socket.AF_UNIX) as door,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as box,
        tempfile.TemporaryDirectory() as folder,
    ):
        door.bind(f"{folder}/door")
        door.listen()
        box.bind(f"{folder}/box")
        with spying(tmp_path, issuer, sandbox=sandbox) as gw:
            assert "refused" in told(gw, "knock", f"{folder}/door")
            assert "refused" in told(gw, "pair", f"{folder}/box")


@walled
def test_shut_in_it_has_no_capability_whoever_the_gateway_runs_as(
    tmp_path: Path, issuer: Issuer, kind: str
) -> None:
    with spying(tmp_path, issuer, sandbox={"kind": kind, "read": reading()}) as gw:
        standing = json.loads(told(gw, "standing"))
        for held in ("CapPrm", "CapEff", "CapAmb"):
            assert int(standing[held][0], 16) == 0
        assert standing["NoNewPrivs"] == ["1"]
        assert standing["tty"] == "0"


@walled
def test_shut_in_a_server_that_means_well_works_as_before(
    tmp_path: Path, issuer: Issuer, kind: str
) -> None:
    clock = str(Path(sys.executable).parent / "mcp-server-time")
    how = {"command": clock, "args": [], "sandbox": {"kind": kind, "read": reading()}}
    with spying(tmp_path, issuer, **how) as gw:
        answer = gw.call("spy__get_current_time", timezone="Europe/Berlin").json()
        assert "Europe/Berlin" in answer["result"]["content"][0]["text"], answer


@_skipped_for(_no_bubblewrap() or _no_other_user())
def test_a_gateway_without_rights_shuts_in_just_the_same(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as workdir:
        os.chown(workdir, pwd.getpwnam("nobody").pw_uid, -1)
        line = bubblewrap(Sandbox(workdir, (), None), "/bin/cat", ("/proc/self/status",))
        done = subprocess.run(
            ["bwrap", *line],
            user="nobody",
            group=pwd.getpwnam("nobody").pw_gid,
            extra_groups=(),
            env={},
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        said = dict(line.split(":", 1) for line in done.stdout.splitlines())
        assert int(said["CapEff"], 16) == int(said["CapPrm"], 16) == 0
        assert said["NoNewPrivs"].strip() == "1"


@landlocked
@pytest.mark.skipif(landlock.abi() < 6, reason="Landlock keeps signals in from ABI 6 on")
def test_shut_in_by_landlock_it_signals_no_process_of_the_gateways(
    tmp_path: Path, issuer: Issuer
) -> None:
    with spying(tmp_path, issuer, sandbox={"kind": "landlock", "read": reading()}) as gw:
        assert gw.process is not None
        assert "refused" in told(gw, "strike", str(gw.process.pid))


def test_what_cannot_be_shut_in_is_not_started(tmp_path: Path, issuer: Issuer) -> None:
    broken = tmp_path / "bin"
    broken.mkdir()
    program = broken / "bwrap"
    program.write_text("#!/bin/sh\necho bwrap: no namespaces here >&2\nexit 1\n")
    program.chmod(0o755)
    servers = {
        "spy": {"command": sys.executable, "args": [SPY], "era": "handshake", "sandbox": "bwrap"},
        "free": {"command": sys.executable, "args": [SPY], "era": "handshake"},
    }
    changes = {"servers": servers, "grants": allow_all("spy", "free")}
    path = {"PATH": f"{broken}:/usr/bin:/bin"}
    with gateway(tmp_path, issuer, changes, env=path) as gw:
        assert gw.call("spy__where").json()["error"]["code"] == 46005
        wait_for(lambda: "no namespaces here" in gw.output, "the reason")
        assert "result" in gw.call("free__where").json()
        assert "sandbox none" in gw.output


@contextmanager
def stranger_spying(tmp_path: Path, issuer: Issuer) -> Iterator[tuple[Gateway, Path]]:
    """A spy that runs as `nobody`, in a folder of that user's, which is given too."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        script = shutil.copy(SPY, place)
        folder = Path(place) / "own"
        folder.mkdir(mode=0o700)
        os.chown(folder, pwd.getpwnam("nobody").pw_uid, -1)
        sandbox = {"kind": "uid", "user": "nobody"}
        how = {"command": SYSTEM_PYTHON, "args": [script], "cwd": str(folder), "sandbox": sandbox}
        with spying(tmp_path, issuer, **how) as gw:
            yield gw, folder


@as_another
def test_as_another_user_it_has_nothing_of_the_gateways_rights(
    tmp_path: Path, issuer: Issuer
) -> None:
    with stranger_spying(tmp_path, issuer) as (gw, folder):
        standing, nobody = json.loads(told(gw, "standing")), pwd.getpwnam("nobody")
        assert standing["Uid"] == [str(nobody.pw_uid)] * 4
        assert standing["Gid"] == [str(nobody.pw_gid)] * 4
        assert standing["Groups"] == []
        for held in ("CapPrm", "CapEff", "CapAmb"):
            assert int(standing[held][0], 16) == 0
        assert standing["NoNewPrivs"] == ["1"]
        assert told(gw, "where") == str(folder)


@as_another
def test_as_another_user_it_gets_at_nothing_of_the_gateways(tmp_path: Path, issuer: Issuer) -> None:
    with stranger_spying(tmp_path, issuer) as (gw, folder):
        assert gw.process is not None
        assert not {"VENDOR_SECRET", "NODE_OPTIONS"} & set(told(gw, "env").split())
        assert gw.state.stat().st_mode & 0o077 == 0
        assert gw.file.stat().st_mode & 0o077 == 0
        secrets = [gw.file, gw.state, *gw.state.rglob("*"), f"/proc/{gw.process.pid}/environ"]
        for secret in secrets:
            assert "refused" in told(gw, "read", str(secret)), secret
        assert "refused" in told(gw, "strike", str(gw.process.pid))
        assert "refused" in told(gw, "write", str(folder.parent / "mark"))
        assert told(gw, "write", "mark") == "written"
        assert (folder / "mark").stat().st_uid == pwd.getpwnam("nobody").pw_uid


@as_another
def test_as_another_user_it_ends_with_the_gateway(tmp_path: Path, issuer: Issuer) -> None:
    with stranger_spying(tmp_path, issuer) as (gw, folder):
        told(gw, "where")
        assert gw.stop() == 0
        of_it = ["pgrep", "-u", "nobody", "-f", str(folder.parent)]
        assert subprocess.run(of_it, capture_output=True, check=False).stdout == b""
