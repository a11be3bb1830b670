"""`agentgw doctor`: what is wrong with an installation, why, and what would mend it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from agentgw.cli.audit import printable
from agentgw.cli.options import ConfigOption, JsonOption, StateDirOption, absolute, load_config
from agentgw.errors import ConfigError

if TYPE_CHECKING:
    from agentgw.core.finding import Finding

OfflineOption = Annotated[bool, typer.Option("--offline", help="Ask no issuer and no tool server.")]


def doctor(
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    offline: OfflineOption = False,
    as_json: JsonOption = False,
) -> None:
    """Check configuration, state, keys, log, issuers and tool servers: a line for each finding.

    Exit 0 without errors (warnings do not count), 3 where the configuration is wrong or a command is
    missing, 6 where the log does not hold, 1 for what else is wrong, 5 where only somebody cannot be
    reached. Changes nothing, sends no token.
    """
    from agentgw.app.doctor import look_at_all, wrong_file
    from agentgw.core.finding import exit_code

    try:
        loaded = load_config(config, {"state_dir": absolute(state_dir)})
    except ConfigError as error:
        found = [wrong_file(error)]
    else:
        found = look_at_all(loaded, os.environ, offline=offline)
    _print(found, exit_code(found), as_json)
    raise typer.Exit(exit_code(found))


def tell(found: Sequence[Finding]) -> None:
    """One line for each finding."""
    for finding in found:
        typer.echo(printable(str(finding)))


def _print(found: Sequence[Finding], code: int, as_json: bool) -> None:
    import orjson

    if as_json:
        answer = {"ok": code == 0, "findings": [finding.to_json() for finding in found]}
        typer.echo(orjson.dumps(answer).decode())
        return
    tell(found)
    levels = [finding.level for finding in found]
    typer.echo(f"{levels.count('error')} errors, {levels.count('warning')} warnings", err=True)
