"""`agentgw keys`: the keys that sign tokens."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import typer

from agentgw.cli.options import ConfigOption, JsonOption, StateDirOption, absolute, load_config
from agentgw.errors import AgentgwError

if TYPE_CHECKING:
    from agentgw.sts.keys import KeyRing, TokenKey

app = typer.Typer(no_args_is_help=True, help="The keys that sign tokens.")


@app.command("list")
def list_keys(
    config: ConfigOption = None, state_dir: StateDirOption = None, as_json: JsonOption = False
) -> None:
    """List the published token keys: the signing one, the next, and those that were replaced."""
    import orjson

    ring = _ring(config, state_dir)
    published = [ring.key(jwk["kid"]) for jwk in ring.jwks()["keys"]]
    rows = [_row(ring, key) for key in published if key is not None]
    if as_json:
        typer.echo(orjson.dumps(rows).decode())
        return
    for row in rows:
        typer.echo(
            f"{row['kid']}  {row['state']:8}  {row['created']}  {row['retired'] or ''}".rstrip()
        )


@app.command()
def rotate(
    config: ConfigOption = None, state_dir: StateDirOption = None, as_json: JsonOption = False
) -> None:
    """Sign with the next key from now on; the replaced one stays published for a day.

    Refused while the next key is younger than a minute: tool servers must have seen it first.
    """
    import orjson

    ring = _ring(config, state_dir)
    key = ring.rotate()
    if as_json:
        typer.echo(orjson.dumps(_row(ring, key)).decode())
    else:
        typer.echo(key.kid)


def _ring(config: ConfigOption, state_dir: StateDirOption) -> KeyRing:
    loaded = load_config(config, {"state_dir": absolute(state_dir)})
    from agentgw.sts.keys import KeyRing

    if not (loaded.state_dir / "keys").is_dir():
        # Looking must not make keys: in a mistyped folder they would seem to be the gateway's.
        raise AgentgwError(f"{loaded.state_dir} holds no keys yet; agentgw serve makes them")
    return KeyRing(loaded.state_dir)


def _row(ring: KeyRing, key: TokenKey) -> dict[str, Any]:
    state = "retired" if key.retired else "current" if key.kid == ring.current.kid else "next"
    return {
        "kid": key.kid,
        "alg": "ES256",
        "state": state,
        "created": _time(key.created),
        "retired": None if key.retired is None else _time(key.retired),
    }


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
