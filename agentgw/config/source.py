"""YAML or JSON text into plain values that remember their lines. Duplicate keys are refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from agentgw.errors import ConfigError

MAX_NODES = 100_000
Loc = tuple[str | int, ...]
"""The way to a value: keys and positions from the top of the file."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value was given. `kind` is file, env or flag; `name` the path, variable or flag; `line`
    counts from 1 and is 0 outside files."""

    kind: Literal["file", "env", "flag"]
    name: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" + (f":{self.line}" if self.line else "")


def place_of(places: Mapping[Loc, Place], loc: Loc) -> Place:
    """The place of the value at `loc`, or of the nearest one around it."""
    for end in range(len(loc), -1, -1):
        if loc[:end] in places:
            return places[loc[:end]]
    return Place("file", "configuration")


class _Loader(yaml.SafeLoader):
    """The scalars of YAML 1.2's core schema: `no` is a word, 12:30 a string, dates are strings."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first
    )


def parse(text: str, file: str) -> tuple[dict[str, Any], dict[Loc, Place]]:
    """The mapping that `text` holds, and the place of every value in it.

    `file` names the source in errors. Raises ConfigError: bad syntax, duplicate keys, keys that are no
    strings, aliases that contain themselves, more than 100,000 values, or a top that is no mapping.
    """
    if file.endswith(".json"):
        # PyYAML takes no tabs between tokens, JSON does; no JSON string may hold a bare one.
        text = text.replace("\t", " ")
    value, lines = parse_value(text, file)
    if not isinstance(value, dict):
        raise ConfigError(file, 1, "should hold a mapping", "begin with version: 1")
    return value, {loc: Place("file", file, line) for loc, line in lines.items()}


def parse_value(text: str, file: str) -> tuple[Any, dict[Loc, int]]:
    """Any value, and the line of every part of it. Raises ConfigError as `parse` does."""
    try:
        node = _compose(text)
        reader = _Reader(file)
        return (None if node is None else reader.read(node, ())), reader.lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = error.problem or "bad syntax"
        if isinstance(error, yaml.composer.ComposerError):
            # Its own words quote the value, which may be a secret that begins with *.
            problem = "an anchor is unknown or used twice; quote values that begin with * or &"
        line = mark.line + 1 if mark else 0
        raise ConfigError(file, line, f"is no valid YAML: {problem}") from None
    except yaml.YAMLError:
        raise ConfigError(file, 0, "is no valid YAML: it holds a control character") from None
    except RecursionError:
        raise ConfigError(file, 0, "is nested too deeply") from None


def _compose(text: str) -> yaml.Node | None:
    loader = _Loader(text)
    try:
        node: yaml.Node | None = loader.get_single_node()
        return node
    finally:
        loader.dispose()


class _Reader:
    """Walks a node tree once."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: dict[Loc, int] = {(): 1}
        self._open: set[int] = set()
        self._count = 0

    def read(self, node: yaml.Node, loc: Loc) -> Any:
        self._count += 1
        if self._count > MAX_NODES or id(node) in self._open:
            raise self._error(node, "holds too many values, or an alias that contains itself")
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, loc)
            if isinstance(node, yaml.SequenceNode):
                return self._sequence(node, loc)
            return self._scalar(node)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, loc: Loc) -> dict[str, Any]:
        seen: dict[str, int] = {}
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or not key_node.value:
                raise self._error(key_node, "has a key that is no word")
            key = key_node.value
            if key == "<<":
                raise self._error(key_node, "uses a merge key (<<), which is not read")
            if key in seen:
                raise self._error(key_node, f"duplicate key {key!r}", f"first on line {seen[key]}")
            seen[key] = line
            self.lines[(*loc, key)] = line
            result[key] = self.read(value_node, (*loc, key))
        return result

    def _sequence(self, node: yaml.SequenceNode, loc: Loc) -> list[Any]:
        items = []
        for index, item in enumerate(node.value):
            self.lines[(*loc, index)] = item.start_mark.line + 1
            items.append(self.read(item, (*loc, index)))
        return items

    def _scalar(self, node: yaml.Node) -> Any:
        text: str = node.value
        match node.tag.removeprefix("tag:yaml.org,2002:"):
            case "str":
                return self._text(node, text)
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int" if len(text) <= 20:
                return int(text)
            case "float" | "int":
                return float(text)
        raise self._error(node, "uses a YAML tag, which is not read")

    def _text(self, node: yaml.Node, text: str) -> str:
        # JSON writes characters beyond the first plane as two escapes, which PyYAML leaves apart.
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise self._error(node, "holds half of a surrogate pair") from None

    def _error(self, node: yaml.Node, message: str, hint: str = "") -> ConfigError:
        return ConfigError(self.file, node.start_mark.line + 1, message, hint)
