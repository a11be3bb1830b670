"""`agentgw keys`: the gateway's own keys."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentgw.cli.options import ConfigOption, JsonOption, StateDirOption, absolute, load_config
from agentgw.errors import AgentgwError

if TYPE_CHECKING:
    from agentgw.config import Config
    from agentgw.sts.inventory import KeyInfo
    from agentgw.sts.keys import KeyRing


class Algorithm(StrEnum):
    """What tokens are signed with."""

    ES256 = "ES256"
    EdDSA = "EdDSA"
    RS256 = "RS256"


app = typer.Typer(no_args_is_help=True, help="The gateway's own keys.")


class Purpose(StrEnum):
    """What has keys that can be rotated."""

    tokens = "tokens"
    checkpoints = "checkpoints"
    dpop = "dpop"
    vault = "vault"


AlgOption = Annotated[
    Algorithm | None,
    typer.Option(
        "--alg",
        help="The token keys to rotate, ES256 by default; made if there are none.",
        show_default=False,
    ),
]
PurposeOption = Annotated[Purpose, typer.Option("--purpose", help="What the key is for.")]


@app.command("list")
def list_keys(
    config: ConfigOption = None, state_dir: StateDirOption = None, as_json: JsonOption = False
) -> None:
    """List all keys by purpose: those in use, the next, those that were replaced. No secret is shown."""
    import orjson

    from agentgw.app.own_keys import open_hsm, open_key_files, wrapping_as_configured
    from agentgw.sts.inventory import device_inventory, inventory

    loaded = _load(config, state_dir)
    with wrapping_as_configured(loaded):
        found = inventory(open_key_files(loaded, os.environ))
    if (device := open_hsm(loaded)) is not None:
        found = device_inventory(device) + found
        device.close()
    rows = [_row(info) for info in found]
    if as_json:
        typer.echo(orjson.dumps(rows).decode())
        return
    for row in rows:
        times = f"{row['created'] or '-':20}  {row['retired'] or ''}"
        head = f"{row['purpose']:11}  {row['alg']:7}  {row['kid']:43}  {row['state']:8}"
        typer.echo(f"{head}  {times}".rstrip())


@app.command()
def rotate(
    alg: AlgOption = None,
    purpose: PurposeOption = Purpose.tokens,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sign with the next key from now on; the replaced one stays published for a day.

    Refused while the next key is younger than a minute: tool servers must have seen it first. A new
    checkpoint key signs from the next start of the gateway on; verifying the log then takes both. A new
    dpop key proves possession from the next start on; tool servers need not know of it. A new vault key
    seals users' credentials from the next start on; those it replaces still open what they sealed. The
    gateway records the change, at its next start if none runs.
    """
    import orjson

    if purpose is not Purpose.tokens and alg is not None:
        raise typer.BadParameter(f"{purpose} keys have one algorithm", param_hint="--alg")
    loaded = _load(config, state_dir)
    ring, note = _ring(loaded), _note_of(loaded)
    if purpose is Purpose.checkpoints:
        _rotate_checkpoint_key(ring, note, as_json)
        return
    if purpose is Purpose.vault:
        kid = ring.rotate_vault_key()
        note("vault", "A256GCM", kid)
        row = {"purpose": "vault", "kid": kid, "alg": "A256GCM", "state": "current"}
        typer.echo(orjson.dumps(row).decode() if as_json else kid)
        return
    if purpose is Purpose.dpop:
        key = ring.rotate_possession_key()
    else:
        key = ring.rotate(alg=(alg or Algorithm.ES256).value)
    note(purpose, key.alg, key.kid)
    if as_json:
        row = {"purpose": purpose.value, "kid": key.kid, "alg": key.alg, "state": "current"}
        typer.echo(orjson.dumps({**row, "created": _time(key.created), "retired": None}).decode())
    else:
        typer.echo(key.kid)


@app.command()
def wrap(
    config: ConfigOption = None, state_dir: StateDirOption = None, as_json: JsonOption = False
) -> None:
    """Seal every key file under the wrapping key that the configuration names; `serve` does so too."""
    _seal(_load(config, state_dir), as_json)


@app.command()
def rewrap(
    config: ConfigOption = None, state_dir: StateDirOption = None, as_json: JsonOption = False
) -> None:
    """Seal every key file anew under keys.wrap, also what was sealed under its `previous`.

    Give a running gateway the new configuration first (SIGHUP), so that it can read what it finds then.
    """
    _seal(_load(config, state_dir), as_json)


def _load(config: ConfigOption, state_dir: StateDirOption) -> Config:
    loaded = load_config(config, {"state_dir": absolute(state_dir)})
    if not (loaded.state_dir / "keys").is_dir():
        # Looking must not make keys: in a mistyped folder they would seem to be the gateway's.
        raise AgentgwError(f"{loaded.state_dir} holds no keys yet; agentgw serve makes them")
    return loaded


def _ring(config: Config) -> KeyRing:
    from agentgw.app.own_keys import open_keyring

    return open_keyring(config, os.environ)


def _note_of(config: Config) -> Callable[[str, str, str], None]:
    """What leaves a rotation to be recorded; opened first, so that none is made that nobody can record."""
    from agentgw.core.record import uuid7
    from agentgw.registry.revocations import Event, Revocations
    from agentgw.registry.schema import open_database, told

    with told("tables"):
        store = Revocations(open_database(config.state_dir / "agentgw.db"))

    def note(purpose: str, alg: str, kid: str) -> None:
        now = time.time()
        event_id = uuid7(int(now * 1000), secrets.token_bytes(10))
        detail = {"by": "cli", "purpose": str(purpose), "alg": alg, "kid": kid}
        store.leave(Event(event_id, "keys/rotate", now, detail))

    return note


def _rotate_checkpoint_key(
    ring: KeyRing, note: Callable[[str, str, str], None], as_json: bool
) -> None:
    import orjson

    vkey = str(ring.rotate_checkpoint_key())
    note("checkpoints", "EdDSA", vkey)
    typer.echo(orjson.dumps({"purpose": "checkpoints", "vkey": vkey}).decode() if as_json else vkey)
    typer.echo(
        "It signs from the next start of the gateway on. Keep it where the log is verified, beside the "
        "one before: agentgw audit verify --key OLD --key NEW",
        err=True,
    )


def _seal(config: Config, as_json: bool) -> None:
    import orjson

    if config.keys.wrap is None:
        raise AgentgwError("there is no wrapping key: say in keys.wrap where one is")
    sealed = _ring(config).seal_anew()
    if as_json:
        typer.echo(orjson.dumps({"sealed": sealed}).decode())
    else:
        typer.echo("sealed: " + ", ".join(sealed))


def _row(info: KeyInfo) -> dict[str, Any]:
    return {
        "purpose": info.purpose,
        "kid": info.kid,
        "alg": info.alg,
        "state": info.state,
        "created": _time(info.created),
        "retired": _time(info.retired),
        "sealed_under": info.sealed_under,
        "place": info.place,
    }


def _time(seconds: int | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
