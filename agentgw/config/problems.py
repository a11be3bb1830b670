"""What pydantic found wrong, in one sentence with a place and, for unknown keys, a suggestion."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from agentgw.config.source import Loc, Place, place_of
from agentgw.config.values import AGENT_NAME, ALIAS
from agentgw.sts.client_auth.api_key import DIGEST

PHRASES = {
    "model_type": "should be a mapping",
    "mapping_type": "should be a mapping",
    "dict_type": "should be a mapping",
    "tuple_type": "should be a list",
    "string_type": "should be text",
    "int_type": "should be a whole number",
    "int_parsing": "should be a whole number",
    "int_from_float": "should be a whole number",
    "float_type": "should be a number",
    "float_parsing": "should be a number",
    "bool_type": "should be true or false",
    "bool_parsing": "should be true or false",
    "path_type": "should be a path",
    "ip_any_network": "should be a network, such as 10.0.0.0/8 (no host bits)",
    "too_short": "should not be empty",
    "string_too_short": "should not be empty",
}
PATTERNS = {
    ALIAS: "should be 1 to 20 of a-z, 0-9 and -",
    DIGEST: "should be what `agentgw agent key` shows: sha-256: and 43 characters",
    AGENT_NAME: "should be 1 to 64 of a-z, 0-9, - and _, not beginning with a dash",
}
NOT_SHOWN = "(not shown)"
FOREIGN = {"mcpServers": "paste its entries under servers"}


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """`did you mean 'x'?` for the nearest of `known`, or nothing."""
    close = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else ""


def explain(
    error: ValidationError, root: type[BaseModel], data: Any, places: Mapping[Loc, Place]
) -> tuple[Loc, str, str]:
    """Location, message and hint of the first thing wrong, in the order of the file."""
    found: list[tuple[bool, bool, int, int, Loc, ErrorDetails]] = []
    for detail in error.errors(include_url=False, include_input=False):
        loc = _in_data(detail["loc"], data)
        # Something missing is often only misspelt, and then the wrong word tells more.
        missing = detail["type"] == "missing"
        line = place_of(places, loc).line
        found.append((missing, loc not in places, line, len(found), loc, detail))
    *_, loc, detail = min(found, key=lambda item: item[:4])
    return loc, *_describe(loc, detail, root)


def _describe(loc: Loc, detail: ErrorDetails, root: type[BaseModel]) -> tuple[str, str]:
    name, kind, context = dotted(loc), detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        known = _fields_at(root, loc[:-1])
        key = str(loc[-1])
        shown = repr(key) if _is_word(key) else NOT_SHOWN
        inside = f" in {dotted(loc[:-1])}" if loc[:-1] else ""
        return f"unknown key {shown}{inside}", FOREIGN.get(key) or did_you_mean(key, known)
    if "[key]" in detail["loc"]:
        name = "the name " + dotted(loc if _is_word(str(loc[-1])) else (*loc[:-1], NOT_SHOWN))
    if kind == "missing":
        return f"{dotted((*loc, detail['loc'][-1]))} is missing", ""
    if kind == "value_error":
        return f"{name} {context['error']}".strip(), ""
    if kind == "string_pattern_mismatch":
        pattern = context["pattern"]
        return f"{name} {PATTERNS.get(pattern, f'should match {pattern}')}", ""
    phrase = PHRASES.get(kind) or detail["msg"].removeprefix("Input ").removeprefix("Value error, ")
    return f"{name} {phrase}", ""


def dotted(loc: Loc) -> str:
    """`grants[2].when` for ("grants", 2, "when")."""
    text = ""
    for part in loc:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if part.isprintable() else repr(part))
    return text


def _is_word(key: str) -> bool:
    """Whether a key may be shown: what is no plain word may be a value in the wrong place, a secret."""
    return re.fullmatch(r"[A-Za-z_][\w-]{0,39}", key) is not None


def _in_data(loc: Loc, data: Any) -> Loc:
    """`loc` without what is not in the data: the tags of unions, and fields filled by defaults."""
    kept: list[str | int] = []
    for part in loc:
        if isinstance(data, dict) and part in data:
            data = data[part]
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            continue
        kept.append(part)
    return tuple(kept)


def _fields_at(root: type[BaseModel], loc: Loc) -> list[str]:
    """The field names of the section at `loc`."""
    kind: Any = root
    for part in loc:
        section = _section(kind)
        field = section.model_fields.get(str(part)) if section is not None else None
        kind = field.annotation if field is not None else _item(kind)
    section = _section(kind)
    return list(section.model_fields) if section is not None else []


def _section(kind: Any) -> type[BaseModel] | None:
    """The model that `kind` is, or may be where it is optional; none for lists and maps of models."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    if get_origin(kind) in (tuple, dict) or _is_mapping(kind):
        return None
    return next(filter(None, map(_section, get_args(kind))), None)


def _item(kind: Any) -> Any:
    """What a list or map holds; for a map the values, which come last."""
    arguments = [argument for argument in get_args(kind) if argument is not ...]
    return arguments[-1] if arguments else None


def _is_mapping(kind: Any) -> bool:
    origin = get_origin(kind)
    return isinstance(origin, type) and issubclass(origin, Mapping)
