"""`agentgw demo`: the whole story on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from agentgw.cli.options import JsonOption


def demo(
    leave: Annotated[
        bool, typer.Option("--exit", help="Leave after the story; 0 only if every step held.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Start tool servers, an issuer and the gateway here, and play a delegated call through them."""
    from agentgw import demo as story

    raise typer.Exit(story.run(exit=leave, json=as_json) or 0)
