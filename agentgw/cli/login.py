"""`agentgw login`: let an agent act for you, from a terminal."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from agentgw.cli.audit import printable
from agentgw.cli.options import ConfigOption, JsonOption, load_config

DENIED, UNREACHABLE = 4, 5


def login(
    client_id: Annotated[
        str, typer.Option("--for", metavar="AGENT", help="The agent, or another client_id.")
    ],
    url: Annotated[
        str | None,
        typer.Argument(metavar="[URL]", help="The gateway; default: the configuration's."),
    ] = None,
    resource: Annotated[
        str | None, typer.Option(metavar="SERVER|URL", help="One server only; default: all.")
    ] = None,
    scope: Annotated[str | None, typer.Option(help="Scopes to ask for, by spaces.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sign in in a browser, on this device or another, and print the agent's token.

    Nothing is stored. --json prints the whole answer, with the refresh token. Exit 4 where the gateway or you
    say no, 5 where it cannot be reached.
    """
    from agentgw.app.device_login import begin, wait
    from agentgw.app.exchange_client import Denied, Unreachable

    issuer = (url or load_config(config).public_url).rstrip("/")
    wanted = resource if resource is None or "://" in resource else f"{issuer}/mcp/{resource}"
    try:
        begun = begin(issuer, client_id, wanted, scope)
        typer.echo(printable(f"Open {begun.link}"), err=True)
        typer.echo(printable(f"and check that it shows the code {begun.user_code}"), err=True)
        answer = wait(issuer, client_id, begun)
    except Denied as error:
        typer.echo(printable(f"denied: {error}"), err=True)
        raise typer.Exit(DENIED) from None
    except Unreachable as error:
        typer.echo(printable(f"error: {error}"), err=True)
        raise typer.Exit(UNREACHABLE) from None
    typer.echo(json.dumps(answer) if as_json else answer["access_token"])
    facts = f"{answer.get('token_type')}, {answer.get('expires_in')} s"
    typer.echo(printable(f"{facts}, {answer.get('scope') or 'no scope'}"), err=True)
