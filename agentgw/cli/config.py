"""`agentgw config`: check, show and describe the configuration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentgw.cli.doctor import tell
from agentgw.cli.options import ConfigOption, JsonOption, load_config
from agentgw.errors import ConfigError

if TYPE_CHECKING:
    from agentgw.config import Config, Loc
    from agentgw.core.finding import Finding

app = typer.Typer(no_args_is_help=True, help="Check, show and describe the configuration.")

MASK = "**********"
"""What pydantic writes for a secret."""


@app.command()
def check(
    config: ConfigOption = None,
    online: Annotated[
        bool,
        typer.Option("--online", help="Ask issuers and tool servers, too; exit 5 without one."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check the configuration: exit 0 if `serve` would take it, else 3 and one line that says why."""
    import orjson

    from agentgw.app.doctor_settings import literal_secrets

    try:
        loaded = load_config(config)
    except ConfigError as error:
        if as_json:
            fault = {name: getattr(error, name) for name in ("file", "line", "message", "hint")}
            typer.echo(orjson.dumps({"ok": False, **fault}).decode())
        raise
    sections = ("issuers", "agents", "servers", "grants")
    counts = {name: len(getattr(loaded, name)) for name in sections}
    for secret in literal_secrets(loaded):
        typer.echo(f"warning: {secret.what}: {secret.why} ({secret.fix})", err=True)
    found, code = _asked(loaded) if online else ([], 0)
    if as_json:
        answer = {"ok": code == 0, "file": loaded.path, "digest": loaded.digest, **counts}
        asked = {"findings": [finding.to_json() for finding in found]} if online else {}
        typer.echo(orjson.dumps({**answer, **asked}).decode())
    else:
        summary = ", ".join(f"{name}: {count}" for name, count in counts.items())
        typer.echo(f"{loaded.path}: ok ({summary})")
        tell(found)
    raise typer.Exit(code)


def _asked(config: Config) -> tuple[list[Finding], int]:
    """What asking everybody found, and the exit code it comes to."""
    from agentgw.app.doctor import ask_everybody
    from agentgw.core.finding import exit_code

    found = ask_everybody(config)
    return found, exit_code(found)


@app.command()
def show(
    config: ConfigOption = None,
    origin: Annotated[
        bool, typer.Option("--origin", help="Say where each value came from.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show the configuration in force, one value a line; secrets are shown as *** or by reference."""
    import orjson

    loaded = load_config(config)
    rows = [(loc, value, _origin(loaded, loc)) for loc, value in _values(loaded)]
    from agentgw.config.problems import dotted

    if as_json:
        answer: dict[str, Any] = {
            dotted(loc): {"value": value, "origin": where} if origin else value
            for loc, value, where in rows
        }
        typer.echo(orjson.dumps(answer, option=orjson.OPT_INDENT_2).decode())
        return
    for loc, value, where in rows:
        line = f"{dotted(loc)} = {orjson.dumps(value).decode()}"
        typer.echo(f"{line}  # {where}" if origin else line)


@app.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors."""
    from agentgw.config.schema import schema_text

    typer.echo(schema_text(), nl=False)


def _values(config: Config) -> Iterator[tuple[Loc, Any]]:
    """Each single value with its way, in the order of the model; empty lists and maps count as values."""
    yield from _leaves(config.model_dump(mode="json"), (), config)


def _leaves(value: Any, loc: Loc, config: Config) -> Iterator[tuple[Loc, Any]]:
    if isinstance(value, dict) and value and loc[-1:] != ("jwks",):
        for key, item in value.items():
            yield from _leaves(item, (*loc, key), config)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for index, item in enumerate(value):
            yield from _leaves(item, (*loc, index), config)
    elif isinstance(value, list):
        yield loc, [_shown(item, (*loc, index), config) for index, item in enumerate(value)]
    else:
        yield loc, _shown(value, loc, config)


def _shown(value: Any, loc: Loc, config: Config) -> Any:
    """What may be seen of a value: of a secret the references in it, and nothing that they brought."""
    if value == MASK:
        from agentgw.config.references import REFERENCE

        written = REFERENCE.finditer(config.references.get(loc, ""))
        return "".join(match[0] for match in written if match[1]) or "***"
    if loc in config.references:
        return config.references[loc]
    return config.redact(value) if isinstance(value, str) else value


def _origin(config: Config, loc: Loc) -> str:
    place = config.places.get(loc)
    return "default" if place is None else str(place)
