"""`agentgw revoke`: take back a token, a user's or an agent's right to be here."""

from __future__ import annotations

import secrets
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from agentgw.cli.options import ConfigOption, JsonOption, StateDirOption, absolute, load_config
from agentgw.errors import AgentgwError, InvalidToken

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from agentgw.config import Config
    from agentgw.core.revocation import Kind


@dataclass(frozen=True, slots=True)
class _Target:
    kind: Kind
    key: str


def revoke(
    token_stdin: Annotated[
        bool, typer.Option("--token-stdin", help="Revoke the token read from standard input.")
    ] = False,
    jti: Annotated[
        str | None, typer.Option(metavar="JTI", help="Revoke the token with this jti.")
    ] = None,
    issuer: Annotated[
        str | None,
        typer.Option(metavar="ALIAS", help="Whose token --jti means; by default the gateway's."),
    ] = None,
    subject: Annotated[
        str | None, typer.Option(metavar="'ALIAS|SUB'", help="Refuse a user, whatever the token.")
    ] = None,
    agent: Annotated[
        str | None, typer.Option(metavar="NAME", help="Refuse every chain this agent stands in.")
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Until then (RFC 3339); by default until it is lifted."),
    ] = None,
    lift: Annotated[bool, typer.Option("--lift", help="Let the user or agent in again.")] = False,
    list_all: Annotated[bool, typer.Option("--list", help="List what is revoked now.")] = False,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Revoke a token with all that came of it, a user, or an agent; running gateways see it within a second.

    A token cannot be let in again. The gateway records the change, at its next start if none runs.
    """
    if sum(map(bool, (token_stdin, jti, subject, agent, list_all))) != 1:
        _misused("name one of --token-stdin, --jti, --subject, --agent and --list")
    if (lift or until) and not (subject or agent):
        _misused("--lift and --until go with --subject or --agent: a token stays revoked")
    if lift and until:
        _misused("--lift takes effect at once: leave out --until")
    if issuer and not jti:
        _misused("--issuer goes with --jti")
    loaded = load_config(config, {"state_dir": absolute(state_dir)})
    engine = _database(loaded)
    if list_all:
        _list(engine, as_json)
        return
    if token_stdin:
        target = _token_on_stdin(loaded)
    elif jti:
        target = _token_by_jti(loaded, jti, issuer)
    elif subject:
        target = _user(loaded, subject)
    else:
        target = _Target("agent", loaded.agent_id(_known_agent(loaded, agent or "", lift)))
    ends = None if until is None else _time(until)
    _print(_write(loaded, engine, target, ends, lift), as_json)


def _write(
    config: Config, engine: Engine, target: _Target, until: int | None, lift: bool
) -> dict[str, Any]:
    from agentgw.core.claims import LEEWAY, MAX_LIFE
    from agentgw.core.record import uuid7
    from agentgw.registry.ledger import Ledger
    from agentgw.registry.revocations import Event, Revocations

    now, store = time.time(), Revocations(engine)
    facts: dict[str, Any] = {"kind": target.kind, "key": target.key, "until": until}
    event = Event(
        uuid7(int(now * 1000), secrets.token_bytes(10)),
        "revocation/lift" if lift else "revocation",
        now,
        {"by": "cli", **facts},
    )
    done = {"event_id": event.event_id, "lifted": lift, **facts}
    if lift:
        if not store.lift(target.kind, target.key, int(now), event):
            raise AgentgwError(f"{target.kind} {target.key} is not revoked")
        return done
    if target.kind != "token":
        store.revoke_party(target.kind, target.key, until, event)
        return done
    if " " not in target.key and ":" not in target.key and Ledger(engine).find(target.key) is None:
        raise AgentgwError(
            "the ledger has no token with this jti: it ended, or another issuer made it (--issuer)"
        )
    # No token that exists today is taken for longer than this.
    longest = int(now) + MAX_LIFE + 2 * LEEWAY
    return done | {"descendants": store.revoke_token(target.key, longest, event)}


def _token_on_stdin(config: Config) -> _Target:
    from agentgw.core.canonical import digest
    from agentgw.core.claims import NAME_LIMIT
    from agentgw.core.principal import Inbound
    from agentgw.core.revocation import token_key
    from agentgw.identity import jose
    from agentgw.identity.verifier import names_a_call

    raw = sys.stdin.buffer.read(jose.TOKEN_LIMIT + 2).strip()
    try:
        token = jose.split(raw)
    except InvalidToken as error:
        raise AgentgwError(f"standard input holds no token we could know: {error.reason}") from None
    made_by, jti = token.claims.get("iss"), token.claims.get("jti")
    if made_by == config.public_url and names_a_call(token.claims):
        raise AgentgwError(
            "a token for one call cannot be revoked: its tool server checks it alone"
        )
    if made_by not in (config.public_url, *(each.issuer for each in config.issuers.values())):
        raise AgentgwError(
            "the token's issuer is none of the configuration's: it is refused anyway"
        )
    named = jti if isinstance(jti, str) and len(jti) <= NAME_LIMIT else None
    inbound = Inbound(str(made_by), named, digest(raw), token.signed_hash)
    return _Target("token", token_key(inbound, config.public_url))


def _token_by_jti(config: Config, jti: str, alias: str | None) -> _Target:
    from agentgw.core.revocation import foreign_key

    if alias is None:
        return _Target("token", jti)
    return _Target("token", foreign_key(config.issuers[_known_issuer(config, alias)].issuer, jti))


def _user(config: Config, name: str) -> _Target:
    from agentgw.core.revocation import user_key

    alias, bar, sub = name.partition("|")
    if not bar or not sub:
        raise AgentgwError("a user is written 'ALIAS|SUB', with the issuer's alias")
    return _Target("subject", user_key(_known_issuer(config, alias), sub))


def _known_issuer(config: Config, alias: str) -> str:
    if alias not in config.issuers:
        known = ", ".join(config.issuers) or "none"
        raise AgentgwError(f"{config.path} has no issuer {alias!r}; it has: {known}")
    return alias


def _known_agent(config: Config, name: str, lift: bool) -> str:
    if name not in config.agents and not lift:
        known = ", ".join(config.agents) or "none"
        raise AgentgwError(f"{config.path} has no agent {name!r}; it has: {known}")
    return name


def _time(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        _misused("--until takes a time such as 2026-12-01T08:00:00Z")
    if moment.tzinfo is None:
        _misused("--until needs a time zone: 2026-12-01T08:00:00Z")
    seconds = int(moment.timestamp())
    if seconds <= time.time():
        _misused("--until lies in the past")
    return seconds


def _list(engine: Engine, as_json: bool) -> None:
    import orjson

    from agentgw.registry.revocations import Revocations

    now = time.time()
    rows: list[dict[str, Any]] = [
        {"kind": each.kind, "key": each.key, "until": each.until}
        for each in Revocations(engine).since(0)
        if not each.lifted and (each.until is None or each.until >= now)
        # A user let go of it; nobody could lift that.
        if each.kind != "account"
    ]
    if as_json:
        typer.echo(orjson.dumps(rows).decode())
        return
    for row in rows:
        typer.echo(f"{row['kind']:7}  {row['key']}  {_ends(row['until'])}")


def _print(done: dict[str, Any], as_json: bool) -> None:
    import orjson

    if as_json:
        typer.echo(orjson.dumps(done).decode())
        return
    if done["lifted"]:
        what = f"{done['kind']} {done['key']} may come in again"
    elif done["kind"] == "token":
        what = f"token {done['key']} revoked, with {done['descendants']} that came of it"
    else:
        what = f"{done['kind']} {done['key']} revoked {_ends(done['until'])}"
    typer.echo(f"{what}; event {done['event_id']}")


def _ends(until: int | None) -> str:
    if until is None:
        return "until lifted"
    return f"until {datetime.fromtimestamp(until, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _database(config: Config) -> Engine:
    path = config.state_dir / "agentgw.db"
    if not path.is_file():
        raise AgentgwError(f"{config.state_dir} holds no state yet; agentgw serve makes it")
    from agentgw.registry.schema import open_database, told

    with told("tables"):
        return open_database(path)


def _misused(message: str) -> NoReturn:
    raise typer.BadParameter(message)
