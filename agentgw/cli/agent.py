"""`agentgw agent`: what an operator does for one agent."""

from __future__ import annotations

import json
import re
import secrets
import sys
from typing import Annotated

import typer

from agentgw.cli.options import JsonOption
from agentgw.errors import AgentgwError

app = typer.Typer(no_args_is_help=True, help="The agents, and what they prove themselves with.")

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


@app.callback()
def _group() -> None:
    """The agents, and what they prove themselves with."""


@app.command()
def key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The agent's name in the file.")],
    as_json: JsonOption = False,
) -> None:
    """Make an API key for an agent and print it, once: nothing keeps it.

    The agent sends it to /oauth/token as its client secret; the file gets the digest only.
    """
    from agentgw.sts.client_auth.api_key import digest_of, new_api_key

    if not _NAME.fullmatch(name):
        raise AgentgwError(f"{name!r} is no name of an agent")
    made = new_api_key(secrets.token_bytes)
    if as_json:
        typer.echo(json.dumps({"agent": name, "api_key": made, "api_key_hash": digest_of(made)}))
        return
    typer.echo(made)
    print(
        f"give the line above to {name}, and put this into the file:\n"
        f"agents: {{{name}: {{auth: {{api_key_hash: {digest_of(made)}}}}}}}",
        file=sys.stderr,
    )
