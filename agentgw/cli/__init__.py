"""The command line. Data goes to stdout, talk to stderr; exit codes as in the documentation."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from agentgw import __version__
from agentgw.cli import (
    agent,
    audit,
    config,
    demo,
    doctor,
    keys,
    login,
    revoke,
    serve,
    server,
    token,
    why,
)
from agentgw.errors import AgentgwError, ConfigError

FAILED, BAD_CONFIG, INTERRUPTED = 1, 3, 130

app = typer.Typer(
    name="agentgw",
    no_args_is_help=True,
    context_settings={"max_content_width": 120},
    # Plain help keeps start-up fast; plain tracebacks show no local variables, which may be secrets.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"agentgw {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and leave."
        ),
    ] = False,
) -> None:
    """A gateway between AI agents and their tools: a delegated token and a record for every call."""


app.command("demo")(demo.demo)
app.command("serve")(serve.serve)
app.command("doctor")(doctor.doctor)
app.add_typer(config.app, name="config")
app.add_typer(keys.app, name="keys")
app.add_typer(agent.app, name="agent")
app.add_typer(server.app, name="server")
app.add_typer(audit.app, name="audit")
app.add_typer(token.app, name="token")
app.command("login")(login.login)
app.command("revoke")(revoke.revoke)
app.command("why")(why.why)


def main() -> None:
    """Run the command line: errors of ours become one line on stderr and an exit code."""
    try:
        app()
    except ConfigError as error:
        _leave(str(error), BAD_CONFIG)
    except AgentgwError as error:
        _leave(str(error), FAILED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _leave(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)
