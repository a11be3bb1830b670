"""Tools and their names: what a server lists, what we expose, and whether it is still what was approved."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agentgw.core.call_token import tool_digest
from agentgw.core.canonical import NotCanonical

SEPARATOR = "__"
NAME_BUDGET = 60
"""Longest exposed name: some clients add a prefix of their own and models accept 64."""

_UPSTREAM_NAME = re.compile(r"[A-Za-z0-9_./:-]{1,128}")
_NOT_EXPOSABLE = re.compile(r"[^A-Za-z0-9_-]")


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool of one server. `definition` is as the server listed it, `digest` covers it less `_meta`.

    `exposed` is its name on `/mcp`; `headers` maps argument paths to the `Mcp-Param-*` tokens it wants.
    `changed` is true where the definition differs from its pin.
    """

    server: str
    name: str
    exposed: str
    definition: Mapping[str, Any]
    digest: str
    headers: Mapping[tuple[str, ...], str] = field(default_factory=dict)
    changed: bool = False


@dataclass(frozen=True, slots=True)
class Listing:
    """What one server offers: `tools` by original name in listed order, `exposed` by the name on `/mcp`.

    `withheld` gives the reason for each tool that is listed but not offered.
    """

    tools: Mapping[str, Tool]
    exposed: Mapping[str, Tool]
    withheld: Mapping[str, str]


EMPTY = Listing({}, {}, {})


def exposed_name(server: str, name: str, taken: Iterable[str] = ()) -> str:
    """The name of a server's tool on `/mcp`: `server__tool`, cut with a hash where too long or taken."""
    plain = server + SEPARATOR + _NOT_EXPOSABLE.sub("_", name)
    if len(plain) <= NAME_BUDGET and plain not in taken:
        return plain
    mark = hashlib.sha256(name.encode("utf-8")).hexdigest()[:6]
    return f"{plain[: NAME_BUDGET - 7]}_{mark}"


def split_exposed(exposed: str) -> tuple[str, str] | None:
    """The server alias and the rest of a name on `/mcp`, or None where it has no such form."""
    server, separator, rest = exposed.partition(SEPARATOR)
    return (server, rest) if separator and server and rest else None


def build_listing(
    server: str,
    definitions: Iterable[Mapping[str, Any]],
    headers: Mapping[str, Mapping[tuple[str, ...], str] | None],
    pins: Mapping[str, str],
    accept_new: bool,
) -> Listing:
    """Turn the definitions a server listed into what we offer of them.

    `headers` holds each tool's `Mcp-Param-*` map by name, None where its annotations break the rules.
    `pins` are the approved digests by name; a tool without one is withheld unless `accept_new`.
    """
    tools: dict[str, Tool] = {}
    exposed: dict[str, Tool] = {}
    withheld: dict[str, str] = {}
    for definition in definitions:
        name = definition["name"]
        reason = _unfit(name, tools, headers)
        if reason is None:
            try:
                found = tool_digest(definition)
            except NotCanonical as error:
                reason = f"its definition has no canonical form: {error}"
        if reason is None and name not in pins and not accept_new:
            reason = "it was never approved"
        if reason is not None:
            withheld[name[:128]] = reason
            continue
        outer = exposed_name(server, name, exposed)
        changed = pins.get(name, found) != found
        wanted = headers[name] or {}
        tools[name] = exposed[outer] = Tool(server, name, outer, definition, found, wanted, changed)
        if changed:
            withheld[name] = "its definition differs from the approved one"
    return Listing(tools, exposed, withheld)


def _unfit(name: str, tools: Mapping[str, Tool], headers: Mapping[str, object]) -> str | None:
    if not _UPSTREAM_NAME.fullmatch(name):
        return "its name has characters outside A-Z a-z 0-9 _ . / : - or more than 128 of them"
    if name in tools:
        return "the server listed it twice"
    if headers.get(name) is None:
        return "its x-mcp-header annotations break the protocol's rules"
    return None
