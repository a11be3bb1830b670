"""What `agentgw doctor` says of the state directory: who may enter, keys, database, log, room."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from agentgw.app.own_keys import open_hsm, open_key_files, wrapping_as_configured
from agentgw.audit.directory import find_logs
from agentgw.audit.ending import check_ending
from agentgw.config.model import Config
from agentgw.core.checkpoint import VerifierKey
from agentgw.core.finding import BAD_CONFIG, LOG_BAD, Finding, fine, warn, wrong
from agentgw.errors import ConfigError, Unavailable
from agentgw.sts.inventory import KeyInfo, checkpoint_keys, inventory

DAY = 86_400
OLD_KEY = 365 * DAY
MIB = 1024 * 1024
LITTLE_ROOM, NO_ROOM = 1024 * MIB, 64 * MIB


def state(config: Config, env: Mapping[str, str], now: float) -> Iterator[Finding]:
    """All of it, and nothing is changed; `env` is where a wrapping key may lie, `now` is Unix seconds."""
    folder = config.state_dir
    yield _room(folder)
    if not folder.is_dir():
        yield fine("state", f"{folder} is not there yet; agentgw serve makes it")
        return
    entered = list(_folder(folder))
    yield from entered
    if any(finding.level == "error" for finding in entered):
        return
    yield from _database(folder / "agentgw.db")
    try:
        with wrapping_as_configured(config):
            files = open_key_files(config, env)
            keys, vkeys = inventory(files), checkpoint_keys(files)
        yield from _keys(config, keys, now)
    except ConfigError as error:
        yield wrong(
            "keys", str(error), "tokens cannot be signed", "see docs/keys.md", code=BAD_CONFIG
        )
        return
    except Unavailable as error:
        yield wrong("keys", str(error), "tokens cannot be signed", "chmod 600, or restore them")
        return
    yield from _device(config)
    yield from _log(folder / "log", vkeys)


def _folder(folder: Path) -> Iterator[Finding]:
    found = folder.stat()
    mode = found.st_mode & 0o777
    if found.st_uid != os.geteuid():
        yield warn(
            "state",
            f"{folder} belongs to user id {found.st_uid}, and doctor runs as {os.geteuid()}",
            "what it sees may differ from what the gateway sees",
            "run doctor as the gateway's user",
        )
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        yield wrong(
            "state", f"{folder} cannot be entered and written", "no record, no call", "see its mode"
        )
    elif mode & 0o077:
        yield warn(
            "state",
            f"{folder} has mode {mode:o}",
            "others on this machine may look at it",
            f"chmod 700 {folder}",
        )
    else:
        yield fine("state", f"{folder} has mode {mode:o}")


def _room(folder: Path) -> Finding:
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    text = f"{free // MIB} MiB free at {there}"
    if free < NO_ROOM:
        return wrong("disk", text, "without room there is no record, and no call", "make room")
    if free < LITTLE_ROOM:
        return warn("disk", text, "without room there is no record, and no call", "make room")
    return fine("disk", text)


def _database(path: Path) -> Iterator[Finding]:
    if not path.exists():
        yield fine("database", f"{path} is not there yet; agentgw serve makes it")
        return
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        yield warn("database", f"{path} has mode {mode:o}", "it holds secrets", f"chmod 600 {path}")
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as opened:
            tables = opened.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            opened.execute("PRAGMA schema_version").fetchone()
    except sqlite3.Error as error:
        yield wrong(
            "database",
            f"{path} cannot be read ({error})",
            "calls are refused while it is unknown who was revoked",
            "restore it from a back-up (docs/operations.md)",
        )
        return
    yield fine("database", f"{path} can be read ({tables} tables and indexes)")


def _keys(config: Config, keys: list[KeyInfo], now: float) -> Iterator[Finding]:
    current = [key for key in keys if key.purpose == "tokens" and key.state == "current"]
    if not current and config.keys.hsm is None:
        yield fine("keys", "there are none yet; agentgw serve makes them")
    for key in current:
        age = None if key.created is None else max(0, int(now) - key.created)
        text = f"{key.alg} {key.kid} signs tokens" + ("" if age is None else f", {_days(age)} old")
        every = config.keys.rotate_every
        if age is not None and every is not None and age > every + DAY:
            late = "rotate_every asks for a younger one: is the gateway running?"
            yield warn("keys", text, late, "agentgw keys rotate")
        elif age is not None and every is None and age > OLD_KEY:
            why = "the longer a key is used, the more a thief of it can do"
            yield warn("keys", text, why, "agentgw keys rotate, or keys.rotate_every")
        else:
            yield fine("keys", text)


def _device(config: Config) -> Iterator[Finding]:
    try:
        device = open_hsm(config)
    except ConfigError as error:
        why, fix = "tokens cannot be signed", "see docs/keys.md"
        yield wrong("hsm", str(error), why, fix, code=BAD_CONFIG)
        return
    if device is not None:
        count = sum(len(keys) for keys in device.keys.values())
        device.close()
        yield fine("hsm", f"the device holds {count} token keys")


def _log(root: Path, vkeys: list[VerifierKey]) -> Iterator[Finding]:
    if not root.is_dir():
        yield fine("log", f"{root} is not there yet; agentgw serve makes it")
        return
    for log in find_logs(root):
        began = time.monotonic()
        try:
            ending = check_ending(log, vkeys)
        except OSError as error:
            yield wrong(
                "log",
                f"it cannot be read ({error.strerror})",
                "no record, no call",
                "see its mode",
                log.name,
            )
            continue
        if ending.problem is not None:
            yield wrong(
                "log",
                ending.problem,
                "the record was altered or lost",
                "agentgw audit verify says where",
                log.name,
                code=LOG_BAD,
            )
            continue
        took = time.monotonic() - began
        text = f"its end holds ({ending.records} records, {took:.1f} s); audit verify reads it all"
        yield fine("log", text, log.name)


def _days(seconds: int) -> str:
    return f"{seconds // DAY} days" if seconds >= 2 * DAY else f"{seconds // 3600} hours"
