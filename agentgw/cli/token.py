"""`agentgw token`: explain one, or exchange one by hand."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from agentgw.cli.audit import printable
from agentgw.cli.options import ConfigOption, JsonOption, StateDirOption, absolute, load_config
from agentgw.errors import AgentgwError

if TYPE_CHECKING:
    from agentgw.app.exchange_client import Credential
    from agentgw.config import Config
    from agentgw.identity.explanation import Explanation

DENIED, UNREACHABLE = 4, 5
INPUT_LIMIT = 64 * 1024
FILE_NAME_LIMIT = 256
MARKS = {True: "ok", False: "FAILED", None: "-"}

app = typer.Typer(no_args_is_help=True, help="Explain a token, or exchange one by hand.")


@app.command()
def inspect(
    token: Annotated[
        str | None,
        typer.Argument(metavar="TOKEN|-", help="The token; default: read from standard input."),
    ] = None,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    offline: Annotated[bool, typer.Option("--offline", help="Fetch no keys.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Explain a token: what it says, the chain of agents, and every check this gateway makes of it.

    Exit 0 where no check failed, 4 where one did, 5 where the issuer's keys could not be had.
    """
    text = _read_token(token)
    loaded = load_config(config, {"state_dir": absolute(state_dir)})
    found = asyncio.run(_explain(loaded, text, offline))
    if as_json:
        typer.echo(json.dumps(_as_json(found), ensure_ascii=False))
    else:
        for line in _lines(found):
            typer.echo(printable(line))
    if found.failed or found.unreachable:
        raise typer.Exit(DENIED if found.failed else UNREACHABLE)


@app.command()
def exchange(
    agent: Annotated[str, typer.Option("--as", metavar="AGENT", help="Who exchanges it.")],
    target: Annotated[
        str,
        typer.Option(help="A URL, a server of the configuration, an agent of it, or mcp for all."),
    ],
    subject_from: Annotated[
        str,
        typer.Option(
            "--subject-token-file", metavar="FILE|-", help="The token to exchange; - is stdin."
        ),
    ] = "-",
    scope: Annotated[str | None, typer.Option(help="Less scope than there is, by spaces.")] = None,
    secret_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="The variable that holds the secret.")
    ] = None,
    secret_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The file that holds the secret.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The private key, PEM (private_key_jwt).")
    ] = None,
    kid: Annotated[str | None, typer.Option(help="The key's id, where it has one.")] = None,
    url: Annotated[
        str | None, typer.Option(help="The gateway's public URL; default: the configuration's.")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Exchange a token at a running gateway, as AGENT; the new token goes to standard output.

    Exit 4 where the gateway refuses, 5 where it cannot be reached or cannot answer now.
    """
    from agentgw.app.exchange_client import Denied, Unreachable, request_exchange

    credential = _credential(agent, secret_env, secret_file, key, kid)
    known = None if url is not None and "://" in target else load_config(config)
    issuer = (url or ("" if known is None else known.public_url)).rstrip("/")
    wanted = _target(target, issuer, known)
    subject = _stdin() if subject_from == "-" else _cleaned(_read(Path(subject_from)), subject_from)
    try:
        answer, event_id = request_exchange(issuer, credential, subject, wanted, scope)
    except Denied as error:
        if known is not None and agent not in known.agents:
            names = ", ".join(known.agents)
            typer.echo(printable(f"{known.path} has no agent {agent!r}; it has: {names}"), err=True)
        _leave(f"denied: {error}", DENIED, error.event_id)
    except Unreachable as error:
        _leave(f"error: {error}", UNREACHABLE, None)
    if as_json:
        typer.echo(json.dumps(answer))
    else:
        typer.echo(answer["access_token"])
    facts = f"{answer.get('token_type')}, {answer.get('expires_in')} s"
    scopes = answer.get("scope") or "no scope"
    typer.echo(printable(f"{facts}, {scopes}, event {event_id or '-'}"), err=True)


async def _explain(config: Config, text: str, offline: bool) -> Explanation:
    from agentgw.app.inspection import explainer

    async with explainer(config, offline=offline) as explain:
        return await explain.explain(text, time.time())


def _read_token(argument: str | None) -> str:
    if argument is None or argument == "-":
        return _stdin()
    if "." in argument and len(argument) < FILE_NAME_LIMIT and Path(argument).is_file():
        raise typer.BadParameter(f"{argument} is a file: pipe it in, with < {argument}")
    typer.echo("warning: others on this machine can see arguments; pipe the token in", err=True)
    return _cleaned(argument, "the argument")


def _stdin() -> str:
    if sys.stdin.isatty():
        typer.echo("paste the token, then Enter and Ctrl-D:", err=True)
    return _cleaned(sys.stdin.buffer.read(INPUT_LIMIT + 1).decode("utf-8", "replace"), "stdin")


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(INPUT_LIMIT + 1)
    except OSError as error:
        raise AgentgwError(f"{path} cannot be read: {error.strerror}") from None
    return data.decode("utf-8", "replace")


def _cleaned(text: str, where: str) -> str:
    scheme, _, rest = text.strip().partition(" ")
    found = rest.strip() if scheme.lower() in ("bearer", "dpop") else text.strip()
    if not found or len(found) > INPUT_LIMIT:
        raise typer.BadParameter(f"{where} holds no token of 1 to {INPUT_LIMIT} characters")
    return found


def _credential(
    agent: str, env: str | None, file: Path | None, key: Path | None, kid: str | None
) -> Credential:
    from agentgw.app.exchange_client import Credential, read_key

    if sum(given is not None for given in (env, file, key)) != 1:
        raise typer.BadParameter("give one of --secret-env, --secret-file and --key")
    if key is not None:
        return Credential(agent, key=read_key(key, kid))
    secret = os.environ.get(env or "", "") if file is None else _read(file).rstrip("\r\n")
    if not secret and file is None:
        raise typer.BadParameter(f"the environment variable {env} is not set, or empty")
    if not secret:
        raise typer.BadParameter(f"{file} is empty")
    return Credential(agent, secret=secret)


def _target(target: str, issuer: str, config: Config | None) -> str:
    if "://" in target:
        return target
    servers = () if config is None else tuple(config.servers)
    agents = () if config is None else tuple(config.agents)
    if target in agents and target in servers:
        raise typer.BadParameter(f"{target} is a server and an agent: give its URL")
    if target in agents:
        return f"{issuer}/a2a/{target}"
    if target in servers:
        return f"{issuer}/mcp/{target}"
    if target == "mcp":
        return f"{issuer}/mcp"
    names = ", ".join(("mcp", *servers, *agents))
    raise typer.BadParameter(f"{target} is no URL and none of {names}")


def _leave(message: str, code: int, event_id: str | None) -> NoReturn:
    typer.echo(printable(message), err=True)
    if event_id is not None:
        typer.echo(printable(f"operators see more with: agentgw why {event_id}"), err=True)
    raise typer.Exit(code)


def _as_json(found: Explanation) -> dict[str, Any]:
    return {
        "kind": found.kind,
        "issuer": found.issuer,
        "use": found.use,
        "header": found.header,
        "claims": found.claims,
        "subject": found.subject,
        "chain": [{"id": h.id, "agent": h.agent, "evidence": h.evidence} for h in found.chain],
        "chain_proven": found.proven,
        "checks": [{"check": c.name, "ok": c.ok, "detail": c.detail} for c in found.checks],
    }


def _lines(found: Explanation) -> list[str]:
    lines = ["header"]
    lines += [f"  {name} = {_value(value)}" for name, value in found.header.items()]
    lines.append("claims")
    lines += [f"  {name} = {_value(value)}" for name, value in found.claims.items()]
    lines += ["chain" if found.proven else "chain, as the token says"]
    lines += _tree(found)
    lines.append("checks")
    lines += [f"  {MARKS[c.ok]:6}  {c.name}: {c.detail}" for c in found.checks]
    lines.append(f"good for: {found.use}")
    return lines


def _tree(found: Explanation) -> list[str]:
    """Who asked whom: the user first, the agent that acts now last."""
    lines = [f"  {found.subject or found.claims.get('sub') or 'nobody'}"]
    for depth, hop in enumerate(reversed(found.chain)):
        name = hop.id if hop.agent is None else f"{hop.agent}  {hop.id}"
        now = "  acts now" if depth == len(found.chain) - 1 else ""
        lines.append(f"  {'   ' * depth}└─ {name}  ({hop.evidence}){now}")
    return lines


def _value(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
