"""`agentgw serve`: run the gateway."""

from __future__ import annotations

from typing import Annotated

import typer

from agentgw.cli.options import ConfigOption, StateDirOption, absolute, load_config


def serve(
    config: ConfigOption = None,
    listen: Annotated[
        str | None, typer.Option("--listen", help="host:port or unix:/path to listen on.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes to serve with.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Allow plain http beyond loopback.")
    ] = False,
    state_dir: StateDirOption = None,
) -> None:
    """Run the gateway from its configuration file until it is told to stop."""
    flags = {
        "listen": listen,
        "workers": workers,
        "insecure": insecure or None,
        "state_dir": absolute(state_dir),
    }
    from agentgw import app

    raise typer.Exit(app.serve(lambda: load_config(config, flags)))
