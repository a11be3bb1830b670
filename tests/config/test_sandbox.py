"""How a server is shut in: what the file may say, and what this machine must be able to keep."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from agentgw.config.sandbox_checks import Account, account, may_read
from agentgw.launch import landlock

from .conftest import HEAD, Load, Refusal

root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a server as another user")


def of(sandbox: str, more: str = "") -> str:
    return f"{HEAD}servers: {{a: {{command: mcp-server-time, sandbox: {sandbox}{more}}}}}\n"


@pytest.mark.parametrize(
    ("sandbox", "message"),
    [
        ("jail", "servers.a.sandbox should be 'none', 'bwrap', 'landlock' or 'uid'"),
        ("uid", "servers.a.sandbox should have user with kind uid, and only there"),
        ("{kind: bwrap, user: x}", "servers.a.sandbox should have user with kind uid"),
        ("{kind: uid, user: x, network: false}", "is uid, which cannot keep a server from the net"),
        ("{kind: none, network: false}", "is none, which cannot keep a server from the network"),
        ("{kind: uid, user: x, read: [/srv]}", "is uid, which neither hides files nor keeps from"),
        ("{kind: none, write: [/srv]}", "is none, which neither hides files nor keeps from"),
    ],
)
def test_a_sandbox_that_could_not_keep_what_it_says_is_refused(
    refuse: Refusal, sandbox: str, message: str
) -> None:
    error = refuse(of(sandbox))
    assert error.line == 3
    assert message in error.message


def test_what_cannot_be_closed_is_shown_as_open(read: Load) -> None:
    assert read(of("none")).servers["a"].sandbox.network
    assert (
        read(f"{HEAD}servers: {{a: {{command: mcp-server-time}}}}\n").servers["a"].sandbox.network
    )


def test_a_program_that_is_not_there_is_told_with_how_to_get_it(refuse: Refusal) -> None:
    error = refuse(of("bwrap"))
    assert error.message == "the program bwrap that shuts server a in is not found"
    assert "apt install bubblewrap" in error.hint


@pytest.mark.skipif(
    landlock.abi() < landlock.NEEDED_ABI, reason="this kernel has no Landlock, or too little"
)
def test_a_word_is_enough_where_the_kernel_can_do_it(read: Load) -> None:
    server = read(of("landlock")).servers["a"]
    assert (server.sandbox.kind, server.sandbox.network) == ("landlock", False)


@root
@pytest.mark.parametrize(
    ("user", "message"),
    [
        ("nobody-of-that-name", "there is no user nobody-of-that-name to run server a as"),
        ("4000000001", "there is no user 4000000001 to run server a as"),
        ("root", "user root of server a is root"),
        ("0", "user 0 of server a is root"),
    ],
)
def test_a_user_that_is_none_or_gives_no_shelter_is_refused(
    refuse: Refusal, user: str, message: str
) -> None:
    assert refuse(of(f"{{kind: uid, user: {user}}}")).message == message


@root
def test_a_folder_that_is_not_the_users_own_is_refused(refuse: Refusal, tmp_path: Path) -> None:
    error = refuse(of("{kind: uid, user: nobody}", f", cwd: {tmp_path}"))
    assert "in which server a would run is not nobody's own" in error.message
    assert "install -d -m 700 -o nobody" in error.hint


@root
def test_a_user_that_exists_and_has_a_folder_is_taken_by_name_or_number(
    read: Load, tmp_path: Path
) -> None:
    nobody = pwd.getpwnam("nobody").pw_uid
    (tmp_path / "own").mkdir()
    os.chown(tmp_path / "own", nobody, -1)
    for user in ("nobody", str(nobody)):
        text = of(f"{{kind: uid, user: {user}}}", f", cwd: {tmp_path / 'own'}")
        found = account(str(read(text).servers["a"].sandbox.user))
        assert found is not None and found.uid == nobody


def test_who_may_read_a_file_is_told_by_its_folders_too(tmp_path: Path) -> None:
    stranger = Account(os.geteuid() + 1, os.getegid() + 1, tmp_path)
    file = Path("/etc/hostname").resolve()
    assert may_read(file, stranger) is bool(file.stat().st_mode & 0o004)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "file").write_text("x")
    (closed / "file").chmod(0o644)
    assert not may_read(closed / "file", stranger)
    assert may_read(Path("/nowhere"), stranger)


def test_a_process_for_each_user_is_for_programs_only(refuse: Refusal) -> None:
    line = "servers: {a: {url: 'https://a.example', isolation: subject}}\n"
    assert "isolation have no meaning" in refuse(HEAD + line).message
