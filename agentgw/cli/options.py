"""Options that several commands share, and the configuration they lead to."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from agentgw.config import Config

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="The configuration; default AGENTGW_CONFIG, then agentgw/agentgw.yaml in the XDG folder.",
    ),
]
StateDirOption = Annotated[
    Path | None,
    typer.Option("--state-dir", metavar="DIR", help="Where keys, database and log are."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def load_config(path: Path | None, flags: Mapping[str, Any] = MappingProxyType({})) -> Config:
    """The configuration at `path`, or at its default place. Raises ConfigError."""
    from agentgw.config import default_config_path, load

    return load(path or default_config_path(os.environ), os.environ, flags)


def absolute(path: Path | None) -> str | None:
    """A path given on the command line, which counts from the working directory."""
    return None if path is None else os.path.abspath(os.path.expanduser(path))
