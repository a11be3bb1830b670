"""What is run for a stdio server: its command, where, for whom, and what shuts it in."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agentgw.config.model import Config
from agentgw.config.sandbox_checks import account
from agentgw.config.servers import Server
from agentgw.core.principal import Subject
from agentgw.core.sandbox import Sandbox, as_user, bubblewrap, landlocked
from agentgw.errors import UpstreamFailed

SUBJECT_VARIABLE = "AGENTGW_SUBJECT"
"""Tells a process of one user's who that is, as tokens and grants spell it."""

_LAUNCH = ("-I", "-m", "agentgw.launch")

_log = logging.getLogger("agentgw")


@dataclass(frozen=True, slots=True)
class Command:
    """A program to start, without a shell; `env` is added to the little it sees of our environment."""

    program: str
    args: Sequence[str]
    env: Mapping[str, str]
    cwd: str


def command_of(config: Config, name: str, server: Server, subject: Subject | None) -> Command:
    """What to start for a stdio server, or for one user of one that runs for each.

    Folders that are the server's own are made. Raises UpstreamFailed where one cannot be, or where the user
    that it runs as is gone.
    """
    assert server.command is not None
    env = {key: value.get_secret_value() for key, value in server.env.items()}
    if subject is not None:
        env = {SUBJECT_VARIABLE: subject.name, **env}
    if server.sandbox.kind == "uid":
        return _as_another_user(server, subject, env)
    workdir = working_folder(config, name, server, subject)
    if workdir != server.cwd:
        _make(workdir)
    if server.sandbox.kind == "none":
        if subject is None:
            warning = "server %s: sandbox none; it may do whatever the gateway's user may"
            _log.warning(warning, name)
        return Command(server.command, server.args, env, str(workdir))
    if server.sandbox.kind == "landlock":
        # The shared /tmp and the home folder are closed to it, and it must not trip over that.
        env = {"HOME": str(workdir), "TMPDIR": str(workdir), **env}
    return Command(*shut_in(config, server, workdir, server.command, server.args), env, "/")


def shut_in(
    config: Config, server: Server, workdir: Path, command: str, args: Sequence[str]
) -> tuple[str, Sequence[str]]:
    """The program, and its arguments, that run `command` in `workdir`, shut in by bwrap or Landlock as the
    server is."""
    sandbox = Sandbox(
        str(workdir),
        tuple(map(str, _hidden(config))),
        str(Path(config.path).absolute()) if Path(config.path).is_file() else None,
        tuple(map(str, server.sandbox.read)),
        tuple(map(str, server.sandbox.write)),
        server.sandbox.network,
    )
    if server.sandbox.kind == "bwrap":
        return shutil.which("bwrap") or "bwrap", bubblewrap(sandbox, command, args)
    return sys.executable, (*_LAUNCH, *landlocked(sandbox, command, args))


def _as_another_user(server: Server, subject: Subject | None, env: Mapping[str, str]) -> Command:
    assert server.command is not None
    user = server.sandbox.user or ""
    who = account(user)
    if who is None or who.uid == 0:
        raise UpstreamFailed(f"cannot be started: there is no user {user} to run it as")
    folder = server.cwd or who.home
    workdir = folder if server.isolation == "shared" else folder / _label(subject)
    own = {"HOME": str(workdir), "USER": user, "LOGNAME": user, "TMPDIR": "/tmp"}  # noqa: S108
    line = as_user(who.uid, who.gid, str(workdir), server.command, server.args)
    return Command(sys.executable, (*_LAUNCH, *line), {**own, **env}, "/")


def working_folder(config: Config, name: str, server: Server, subject: Subject | None) -> Path:
    """Where a server runs, or for one user of one that runs for each; not made here."""
    folder = server.cwd
    if folder is None:
        folder = config.state_dir.absolute() / "servers" / name
    return folder if server.isolation == "shared" else folder / _label(subject)


def _label(subject: Subject | None) -> str:
    """The name of a user's folder: a subject may be spelled in ways no file can."""
    if subject is None:
        return "gateway"
    return hashlib.sha256(f"{subject.iss}\0{subject.sub}".encode()).hexdigest()[:32]


def _make(folder: Path) -> None:
    """Make a folder for our user alone, unless it is there. Raises UpstreamFailed, also for a link: a server
    that may write beside it could have put one there, to be let out of its sandbox the next time."""
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        if folder.is_symlink():
            raise OSError(errno.ELOOP, "it is a link")
    except OSError as error:
        reason = f"cannot be started: {error.strerror}: {folder}"
        raise UpstreamFailed(reason) from None


def _hidden(config: Config) -> list[Path]:
    """Folders that a server finds empty: the user's home and the gateway's own."""
    home = Path(os.environ.get("HOME", "/"))
    found = [config.state_dir.absolute()]
    return [home, *found] if home != Path("/") and home.is_dir() else found
