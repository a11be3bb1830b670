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


def state_dir_of(flag: Path | None, config: Path | None) -> Path:
    """The state directory: the flag's, AGENTGW_STATE_DIR's, the configuration's, or the default one.

    A configuration is read only where the first two are silent, and needs not be there unless it was
    named. Raises ConfigError.
    """
    from agentgw.config import default_config_path, default_state_dir

    if flag is not None:
        return Path(os.path.abspath(os.path.expanduser(flag)))
    path = config or default_config_path(os.environ)
    expected = config is not None or "AGENTGW_CONFIG" in os.environ or path.exists()
    if named := os.environ.get("AGENTGW_STATE_DIR"):
        # As `load` has it: a relative path counts from the configuration's folder.
        base = path.absolute().parent if expected else Path.cwd()
        return base / os.path.expanduser(named)
    return load_config(path).state_dir if expected else default_state_dir(os.environ)


def absolute(path: Path | None) -> str | None:
    """A path given on the command line, which counts from the working directory."""
    return None if path is None else os.path.abspath(os.path.expanduser(path))
