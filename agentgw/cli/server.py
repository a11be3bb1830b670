"""`agentgw server`: the tool servers of the configuration, and what of their tools is approved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentgw.cli.options import ConfigOption, JsonOption, StateDirOption, absolute, load_config
from agentgw.errors import AgentgwError

if TYPE_CHECKING:
    from agentgw.config import Config
    from agentgw.registry.pins import ToolPins

app = typer.Typer(no_args_is_help=True, help="The tool servers and their approved tools.")


@app.command("list")
def list_servers(
    config: ConfigOption = None, state_dir: StateDirOption = None, as_json: JsonOption = False
) -> None:
    """List the servers: how each is reached, the audience of its tokens, how many tools are approved."""
    import orjson

    loaded = load_config(config, {"state_dir": absolute(state_dir)})
    pins = _pins(loaded)
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "kind": "http" if server.command is None else "stdio",
            "sandbox": None if server.command is None else server.sandbox.kind,
            "audience": server.audience,
            "approved_tools": 0 if pins is None else len(pins.of(name)),
        }
        for name, server in loaded.servers.items()
    ]
    if as_json:
        typer.echo(orjson.dumps(rows).decode())
        return
    for row in rows:
        tools = f"{row['approved_tools']} approved tools"
        shut_in = "" if row["sandbox"] is None else f"  sandbox {row['sandbox']}"
        typer.echo(f"{row['name']}  {row['kind']:5}  {tools}  {row['audience'] or '-'}{shut_in}")


@app.command()
def approve(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The server's name.")],
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Approve what the server lists next, changed and new tools too; the gateway records it.

    A running gateway asks within a minute, or at once on SIGHUP.
    """
    import orjson

    loaded = load_config(config, {"state_dir": absolute(state_dir)})
    if name not in loaded.servers:
        known = ", ".join(loaded.servers) or "none"
        raise AgentgwError(f"{loaded.path} has no server {name!r}; it has: {known}")
    pins = _pins(loaded)
    forgotten = 0 if pins is None else pins.forget(name)
    if as_json:
        typer.echo(orjson.dumps({"server": name, "forgotten": forgotten}).decode())
        return
    typer.echo(f"{name}: {forgotten} approvals forgotten; the tools it lists next are approved")


def _pins(config: Config) -> ToolPins | None:
    """The approvals of the state database, or None where no gateway has made one."""
    path = config.state_dir / "agentgw.db"
    if not path.is_file():
        return None
    from agentgw.registry.pins import ToolPins
    from agentgw.registry.schema import open_database, told

    with told("tables"):
        return ToolPins(open_database(path))
