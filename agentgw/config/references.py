"""Values given by reference: `${env:X}` and `${file:X}`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentgw.config.source import Loc

REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
MAX_FILE_BYTES = 64 * 1024


class BadReference(ValueError):
    """A reference that names nothing: `loc` says where it stands, `hint` what would mend it."""

    def __init__(self, loc: Loc, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.loc = loc
        self.hint = hint


@dataclass(frozen=True, slots=True)
class References:
    """What came by reference: `written` has the texts by location, `hidden` the texts by value."""

    written: Mapping[Loc, str] = field(default_factory=dict)
    hidden: Mapping[str, str] = field(default_factory=dict, repr=False)

    def redact(self, text: str) -> str:
        """`text` with each value that came by reference replaced by the reference."""
        for value in sorted(self.hidden, key=len, reverse=True):
            text = text.replace(value, self.hidden[value])
        return text


def resolve(value: Any, base: Path, env: Mapping[str, str]) -> tuple[Any, References]:
    """A copy of `value` with every reference replaced, and what they were.

    `base` is the folder relative files count from. `$${` stands for a plain `${`. What a reference
    brings in is never looked at for further references. Raises BadReference.
    """
    resolver = _Resolver(base, env)
    resolved = resolver.walk(value, ())
    return resolved, References(resolver.written, resolver.hidden)


class _Resolver:
    def __init__(self, base: Path, env: Mapping[str, str]) -> None:
        self.written: dict[Loc, str] = {}
        self.hidden: dict[str, str] = {}
        self._base = base
        self._env = env

    def walk(self, value: Any, loc: Loc) -> Any:
        if isinstance(value, dict):
            return {key: self.walk(item, (*loc, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self.walk(item, (*loc, index)) for index, item in enumerate(value)]
        if isinstance(value, str) and "${" in value:
            return REFERENCE.sub(lambda match: self._replace(match, value, loc), value)
        return value

    def _replace(self, match: re.Match[str], written: str, loc: Loc) -> str:
        if match[0] == "$${":
            return "${"
        kind, _, name = match[1].partition(":")
        if not match[2] or kind not in ("env", "file") or not name:
            raise BadReference(
                loc,
                "holds a reference of no known kind",
                "write ${env:X}, ${file:X}, or $${ for ${",
            )
        value = self._variable(name, loc) if kind == "env" else self._file(name, loc)
        self.written[loc] = written
        if len(value) >= 4:
            self.hidden[value] = match[0]
        return value

    def _variable(self, name: str, loc: Loc) -> str:
        value = self._env.get(name)
        if not value:
            state = "is empty" if value == "" else "is not set"
            raise BadReference(loc, f"the environment variable {name} {state}", f"set {name}")
        if not _is_text(value):
            raise BadReference(loc, f"the environment variable {name} is no UTF-8 text")
        return value

    def _file(self, name: str, loc: Loc) -> str:
        try:
            with (self._base / os.path.expanduser(name)).open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
            value = data.decode("utf-8").removesuffix("\n").removesuffix("\r")
        except OSError as error:
            raise BadReference(loc, f"cannot read the file {name}: {error.strerror}") from None
        except ValueError:
            raise BadReference(loc, f"the file {name} is no UTF-8 text") from None
        if not value or len(data) > MAX_FILE_BYTES:
            state = "is longer than 64 KiB" if value else "is empty"
            raise BadReference(loc, f"the file {name} {state}")
        return value


def _is_text(value: str) -> bool:
    """Whether the operating system could read the bytes of a variable as UTF-8."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
