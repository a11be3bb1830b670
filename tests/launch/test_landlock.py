"""What Landlock leaves to a process, and that nothing runs where it cannot be had."""

from __future__ import annotations

import ctypes
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from agentgw.config.sandbox_checks import check_sandbox
from agentgw.config.servers import Server
from agentgw.launch import landlock, sockets
from agentgw.launch.kernel import no_new_privileges, syscall
from agentgw.launch.landlock import visible

MACHINE = os.uname().machine
filtered = pytest.mark.skipif(
    MACHINE not in sockets.MACHINES, reason=f"no number of seccomp is known here for {MACHINE}"
)


def without_landlock() -> None:
    """Make this process, and what it becomes, one of a kernel that knows no landlock_create_ruleset."""
    no_new_privileges()
    steps = [(0x20, 0, 0, 0), (0x15, 0, 1, 444), (0x06, 0, 0, 0x00050000 | 38)]
    steps.append((0x06, 0, 0, 0x7FFF0000))
    code = b"".join(struct.pack("=HBBI", *step) for step in steps)
    program = struct.pack("=HxxxxxxQ", len(steps), ctypes.addressof(kept := _buffer(code)))
    syscall(sockets.MACHINES[MACHINE][1], 1, 0, ctypes.byref(_buffer(program)))
    assert kept


def _buffer(data: bytes) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(data, len(data))


def launched(orders: dict[str, object], *command: str) -> list[str]:
    start = [sys.executable, "-I", "-m", "agentgw.launch", "landlock", json.dumps(orders)]
    return [*start, *command]


def orders(workdir: Path) -> dict[str, object]:
    return {
        "workdir": str(workdir), "hidden": [], "read": [], "write": [], "network": False,
    }  # fmt: skip


def test_all_but_what_is_hidden_is_covered_by_the_fewest_paths(tmp_path: Path) -> None:
    for name in ("a/deep/secret", "a/deep/plain", "a/other", "b"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a/deep/secret")
    found = [
        Path(path).relative_to(tmp_path).as_posix()
        for path in visible(str(tmp_path), {str(tmp_path / "a/deep/secret")})
    ]
    assert found == ["a/deep/plain", "a/other", "b"]


def test_nothing_hidden_leaves_the_whole_and_all_hidden_leaves_nothing() -> None:
    assert list(visible("/etc", {"/srv"})) == ["/etc"]
    assert list(visible("/etc", {"/etc"})) == []


@filtered
def test_without_landlock_in_the_kernel_nothing_is_started(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    done = subprocess.run(
        launched(orders(tmp_path), "/usr/bin/touch", str(mark)),
        preexec_fn=without_landlock,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 126
    assert "cannot be shut in by sandbox landlock" in done.stderr
    assert "Landlock ABI 0" in done.stderr
    assert not mark.exists()


@filtered
def test_without_landlock_in_the_kernel_the_file_is_wrong_and_says_so(tmp_path: Path) -> None:
    file = tmp_path / "agentgw.yaml"
    file.write_text(
        "version: 1\npublic_url: https://gw.example.com\n"
        "servers: {a: {command: /bin/cat, sandbox: landlock}}\n"
    )
    file.chmod(0o600)
    done = subprocess.run(
        [sys.executable, "-m", "agentgw", "config", "check", "--config", str(file)],
        preexec_fn=without_landlock,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert "this kernel has no Landlock" in done.stdout + done.stderr


@pytest.mark.skipif(landlock.abi() < landlock.NEEDED_ABI, reason="this kernel has no Landlock")
def test_a_folder_that_is_not_there_starts_nothing(tmp_path: Path) -> None:
    wrong = {**orders(tmp_path), "read": [str(tmp_path / "nowhere")]}
    done = subprocess.run(
        launched(wrong, "/usr/bin/true"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 126
    assert "nowhere" in done.stderr


@pytest.mark.skipif(landlock.abi() < landlock.NEEDED_ABI, reason="this kernel has no Landlock")
def test_a_machine_that_can_has_nothing_against_it() -> None:
    server = Server.model_validate({"command": "/bin/cat", "sandbox": "landlock"})
    assert list(check_sandbox("a", server, Path("/etc/agentgw.yaml"), {})) == []
