"""From a file, the environment and flags to one frozen Config, or to one clear ConfigError."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from agentgw.config.checks import check
from agentgw.config.environment import lay_environment, lay_flags
from agentgw.config.model import Config, default_state_dir
from agentgw.config.problems import explain
from agentgw.config.references import BadReference, resolve
from agentgw.config.sandbox_checks import check_sandbox
from agentgw.config.servers import Server
from agentgw.config.source import Loc, Place, parse, place_of
from agentgw.core.canonical import NotCanonical, canonical_json, digest
from agentgw.errors import ConfigError

MAX_FILE_BYTES = 4 * 1024 * 1024


def load(
    path: Path, env: Mapping[str, str], flags: Mapping[str, Any] = MappingProxyType({})
) -> Config:
    """Read the configuration at `path`: flag over environment over file over default.

    `env` is the process's environment, `flags` top-level fields given on the command line (None: not
    given). Commands of stdio servers come back as the absolute paths they were found at. Raises
    ConfigError, whose text holds no secret, for the first thing that is wrong.
    """
    file = str(path)
    data, places = parse(_read(path), file)
    _unwrap_pasted(data, places)
    lay_environment(data, places, env)
    lay_flags(data, places, flags)
    base = path.absolute().parent
    try:
        fingerprint = digest(canonical_json(data))
        resolved, references = resolve(data, base, env)
    except NotCanonical as error:
        raise ConfigError(file, 0, str(error)) from None
    except BadReference as error:
        place = place_of(places, error.loc)
        raise ConfigError(place.name, place.line, str(error), error.hint) from None
    try:
        config = _validate(resolved, places, base, env)
        config._path, config._digest = file, fingerprint
        config._places = places
        config._references = references
        _refuse_problems(config)
        _refuse_absent_files(config)
        return _find_commands(config, base, env)
    except ConfigError as error:
        message, hint = map(references.redact, (error.message, error.hint))
        raise ConfigError(error.file, error.line, message, hint) from None


def _read(path: Path) -> str:
    try:
        # Asked of the open file, so that nobody can swap it in between.
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise ConfigError(str(path), 0, "others may write this file", f"chmod go-w {path}")
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        hint = "name one with --config or AGENTGW_CONFIG"
        raise ConfigError(str(path), 0, "there is no such file", hint) from None
    except OSError as error:
        raise ConfigError(str(path), 0, f"cannot be read: {error.strerror}") from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(str(path), 0, "is longer than 4 MiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(str(path), line, "is no UTF-8 text") from None


def _unwrap_pasted(data: dict[str, Any], places: dict[Loc, Place]) -> None:
    """Take a pasted block with its `mcpServers` around it: the entries are servers like all others."""
    servers = data.get("servers")
    if not isinstance(servers, dict) or not isinstance(servers.get("mcpServers"), dict):
        return
    start: Loc = ("servers", "mcpServers")
    for name, entry in servers.pop("mcpServers").items():
        place = places[*start, name]
        if name in servers:
            raise ConfigError(place.name, place.line, f"duplicate key {name!r}")
        servers[name] = entry
    for loc in [loc for loc in places if loc[:2] == start]:
        place = places.pop(loc)
        if len(loc) > 2:
            places["servers", *loc[2:]] = place


def _validate(
    data: dict[str, Any], places: Mapping[Loc, Place], base: Path, env: Mapping[str, str]
) -> Config:
    given = {"state_dir": str(default_state_dir(env)), **data}
    try:
        return Config.model_validate(given, context={"base": base})
    except ValidationError as error:
        loc, message, hint = explain(error, Config, data, places)
        place = place_of(places, loc)
        raise ConfigError(place.name, place.line, message, hint) from None


def _refuse_problems(config: Config) -> None:
    problems = list(check(config))
    if problems:
        first = min(problems, key=lambda problem: place_of(config.places, problem.loc).line)
        raise config.error(first.loc, first.message, first.hint)


def _refuse_absent_files(config: Config) -> None:
    authorities = config.client_certificates.ca
    if authorities is not None and not os.access(authorities, os.R_OK):
        raise config.error(("client_certificates", "ca"), "ca is no file that can be read")
    if config.tls is None:
        return
    for name, path in config.tls:
        if not os.access(path, os.R_OK) or not path.is_file():
            raise config.error(("tls", name), f"tls.{name} is no file that can be read")


def _find_commands(config: Config, base: Path, env: Mapping[str, str]) -> Config:
    """The configuration with each stdio command as the absolute path of the program found for it."""
    found: dict[str, Server] = {}
    for name, server in config.servers.items():
        found[name] = server
        if server.command is None:
            continue
        loc: Loc = ("servers", name)
        if server.cwd is not None and not server.cwd.is_dir():
            raise config.error((*loc, "cwd"), f"cwd of {name} is no folder")
        for field, message, hint in check_sandbox(name, server, Path(config.path), env):
            raise config.error((*loc, field), message, hint)
        command = os.path.expanduser(server.command)
        if os.sep in command:
            command = str(base / command)
        program = shutil.which(command, path=_search_path(server, env))
        if program is None:
            raise config.error(
                (*loc, "command"),
                f"the command {server.command!r} of server {name} is not found or not executable",
                "install it, or write its path",
            )
        found[name] = server.model_copy(update={"command": str(Path(program).absolute())})
    return config.model_copy(update={"servers": found})


def _search_path(server: Server, env: Mapping[str, str]) -> str:
    """The server's own PATH; else ours, and after it the folder of this Python's programs."""
    own = server.env.get("PATH")
    if own is not None:
        return own.get_secret_value()
    # A gateway started as .venv/bin/agentgw finds what was installed beside it, activated or not.
    return os.pathsep.join((env.get("PATH", os.defpath), os.path.dirname(sys.executable)))
