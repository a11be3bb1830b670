"""`AGENTGW_*` variables and command-line flags laid over the file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from agentgw.config.source import Loc, Place, parse_value
from agentgw.errors import ConfigError

PREFIX = "AGENTGW_"
NOT_OURS = re.compile(
    r"AGENTGW_(CONFIG|LOG_LEVEL|VENV|PYTHON|PORT|PORT_\d.*|SERVICE_(HOST|PORT).*)"
)
"""`AGENTGW_CONFIG` names the file itself, `AGENTGW_LOG_LEVEL` is read by `serve`, two are read by the
scripts of a checkout, and the others Kubernetes sets for a Service called agentgw."""


def lay_environment(data: dict[str, Any], places: dict[Loc, Place], env: Mapping[str, str]) -> None:
    """Put each `AGENTGW_A__B=value` at `a.b` of `data`; `..._FILE` names a file that holds the value.

    A value that begins with [ or { is read as YAML. Raises ConfigError naming the variable.
    """
    for name in sorted(env):
        if not name.startswith(PREFIX) or NOT_OURS.fullmatch(name):
            continue
        value: Any = env[name]
        inner: dict[Loc, int] = {}
        path = name.removeprefix(PREFIX).lower()
        if path.endswith("_file"):
            path = path.removesuffix("_file")
            value = f"${{file:{os.path.abspath(os.path.expanduser(value))}}}"
        elif value.startswith(("[", "{")):
            value, inner = parse_value(value, name)
        place = Place("env", name)
        loc = _lay(data, places, path.split("__"), value, place)
        places.update({(*loc, *part): place for part in inner})


def lay_flags(data: dict[str, Any], places: dict[Loc, Place], flags: Mapping[str, Any]) -> None:
    """Put each top-level field that a flag gave (None: not given) into `data`."""
    for field, value in flags.items():
        if value is not None:
            flag = "--" + field.replace("_", "-")
            _lay(data, places, [field], value, Place("flag", flag))


def _lay(
    data: dict[str, Any], places: dict[Loc, Place], path: list[str], value: Any, place: Place
) -> Loc:
    node, loc = data, ()  # type: dict[str, Any], Loc
    for segment in path[:-1]:
        key = _known(node, segment)
        loc = (*loc, key)
        places.setdefault(loc, place)
        if node.get(key) is None:
            node[key] = {}
        node = node[key]
        if not isinstance(node, dict):
            raise ConfigError(
                place.name, 0, f"{key} is no mapping, so nothing can be set inside it"
            )
    key = _known(node, path[-1])
    loc = (*loc, key)
    for stale in [known for known in places if known[: len(loc)] == loc]:
        del places[stale]
    places[loc] = place
    node[key] = value
    return loc


def _known(node: dict[str, Any], segment: str) -> str:
    """The key a segment means: variables know neither case nor dashes."""
    for key in node:
        if key.lower().replace("-", "_") == segment:
            return key
    return segment
