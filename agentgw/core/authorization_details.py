"""A token for exactly one tool: `authorization_details` of our type (RFC 9396), as asked, kept and held.

One object says it all:

    {"type": "urn:agentgw:mcp-tool:1", "locations": ["{public_url}/mcp/{server}"],
     "actions": ["tools/call"], "identifier": "<the tool's name at that server>",
     "arguments_digest": "sha-256:…"}

A request may give `arguments` instead of their digest, which is over their RFC 8785 form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentgw.core.canonical import NotCanonical, canonical_json, digest
from agentgw.errors import InvalidToken, OAuthError

TOOL_DETAILS = "urn:agentgw:mcp-tool:1"
"""The one `type` an agent may ask for."""

ACTIONS = ["tools/call"]
TEXT_LIMIT = 16 * 1024
NAME_LIMIT = 255

_MEMBERS = {"type", "locations", "actions", "identifier", "arguments_digest"}
_DIGEST = re.compile(r"sha-256:[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class OneTool:
    """The one tool a token is for: `location` is our resource URL of its server, `tool` its original
    name, `arguments_digest` that of the only arguments it may be called with (None: any)."""

    location: str
    tool: str
    arguments_digest: str | None = None

    def includes(self, other: OneTool) -> bool:
        """Whether `other` allows nothing that this does not."""
        same = (self.location, self.tool) == (other.location, other.tool)
        return same and self.arguments_digest in (None, other.arguments_digest)

    def admits(self, location: str, tool: str, arguments: Mapping[str, Any] | None) -> bool:
        """Whether `tool` of the server at `location` may be called so; `arguments` None on lists."""
        if location != self.location or tool != self.tool:
            return False
        if arguments is None or self.arguments_digest is None:
            return True
        try:
            return arguments_digest(arguments) == self.arguments_digest
        except NotCanonical:
            return False


def arguments_digest(arguments: Mapping[str, Any]) -> str:
    """The digest of a call's arguments: over their RFC 8785 bytes. Raises NotCanonical."""
    return digest(canonical_json(dict(arguments)))


def parse_details(text: str) -> OneTool:
    """What the parameter `authorization_details` asks for. Raises OAuthError (RFC 9396 section 5)."""
    if len(text) > TEXT_LIMIT:
        raise invalid_details("authorization_details are too large")
    try:
        value = _strict_json(text)
        if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
            value = [_digested(value[0])]
        return _one_tool(value)
    except RecursionError:
        raise invalid_details("authorization_details are nested too deep") from None
    except ValueError as error:
        raise invalid_details(str(error)) from None


def details_of(claims: Mapping[str, Any]) -> OneTool | None:
    """The tool a verified token is for, None where its `authorization_details` name none of ours.

    Other types are other servers' business. Raises InvalidToken where ours cannot be understood: a
    limit that cannot be read must not count as none.
    """
    value = claims.get("authorization_details")
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise InvalidToken("the token's authorization_details are no list of objects")
    ours = [item for item in value if item.get("type") == TOOL_DETAILS]
    if not ours:
        return None
    try:
        return _one_tool(ours)
    except ValueError as error:
        raise InvalidToken(f"the token's {error}") from None


def details_claim(one: OneTool) -> list[dict[str, Any]]:
    """The `authorization_details` of a token or an answer."""
    item: dict[str, Any] = {
        "type": TOOL_DETAILS,
        "locations": [one.location],
        "actions": list(ACTIONS),
        "identifier": one.tool,
    }
    if one.arguments_digest is not None:
        item["arguments_digest"] = one.arguments_digest
    return [item]


def invalid_details(description: str) -> OAuthError:
    """The refusal of RFC 9396 section 5."""
    return OAuthError("invalid_authorization_details", description)


def _digested(item: dict[str, Any]) -> dict[str, Any]:
    if "arguments" not in item:
        return item
    arguments = item["arguments"]
    if "arguments_digest" in item or not isinstance(arguments, dict):
        raise ValueError("arguments must be one object, or arguments_digest its digest")
    kept = {name: value for name, value in item.items() if name != "arguments"}
    return {**kept, "arguments_digest": arguments_digest(arguments)}


def _one_tool(value: Any) -> OneTool:
    if not isinstance(value, list) or len(value) != 1 or not isinstance(value[0], dict):
        raise ValueError("authorization_details must be a list of exactly one object")
    [item] = value
    if item.get("type") != TOOL_DETAILS:
        raise ValueError(f"authorization_details have a type other than {TOOL_DETAILS}")
    if unknown := item.keys() - _MEMBERS:
        raise ValueError(f"authorization_details have members unknown here ({len(unknown)})")
    locations, tool, bound = item.get("locations"), item.get("identifier"), None
    if not isinstance(locations, list) or len(locations) != 1 or not _is_name(locations[0], 2048):
        raise ValueError("authorization_details need one location: the URL of a server here")
    if item.get("actions") != ACTIONS:
        raise ValueError(f"authorization_details need actions {json.dumps(ACTIONS)}")
    if not _is_name(tool):
        raise ValueError("authorization_details need an identifier: the tool's name")
    if "arguments_digest" in item:
        bound = item["arguments_digest"]
        if not isinstance(bound, str) or not _DIGEST.fullmatch(bound):
            raise ValueError("authorization_details have an arguments_digest that is none")
    return OneTool(locations[0], tool, bound)


def _is_name(value: Any, limit: int = NAME_LIMIT) -> bool:
    return isinstance(value, str) and 0 < len(value) <= limit and value.isprintable()


def _strict_json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except json.JSONDecodeError:
        raise ValueError("authorization_details are not JSON") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("authorization_details name a member twice")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError("authorization_details hold a number that is not JSON")
