"""What a message asks for, in the words of policy: a kind, a name, and arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from agentgw.core.grants import Kind

FILTERED_LISTS: Mapping[str, tuple[Kind, str, str]] = {
    "prompts/list": ("prompts", "prompts", "name"),
    "resources/list": ("resources", "resources", "uri"),
    "resources/templates/list": ("resources", "resourceTemplates", "uriTemplate"),
}
"""List methods that pass without a grant: what kind their items are, where they stand, how they are named."""

_BY_MEMBER: Mapping[str, tuple[Kind, str]] = {
    "tools/call": ("tools", "name"),
    "prompts/get": ("prompts", "name"),
    "resources/read": ("resources", "uri"),
    "resources/subscribe": ("resources", "uri"),
    "resources/unsubscribe": ("resources", "uri"),
}
_REFERENCES: Mapping[str, tuple[Kind, str]] = {
    "ref/prompt": ("prompts", "name"),
    "ref/resource": ("resources", "uri"),
}


class Target(NamedTuple):
    """The thing a request acts on. `name` is the original name; `arguments` are what conditions see."""

    kind: Kind
    name: str
    arguments: Mapping[str, Any]


def target_of(method: str, params: Mapping[str, Any]) -> Target | None:
    """The target of a request, or None where a member that must name it is no string."""
    if method == "completion/complete":
        reference = params.get("ref")
        if not isinstance(reference, dict):
            return None
        kind_and_member = _REFERENCES.get(str(reference.get("type")))
        members: Mapping[str, Any] = reference
    else:
        kind_and_member = _BY_MEMBER.get(method)
        members = params
        if kind_and_member is None:
            return Target("methods", method, _without_meta(params))
    if kind_and_member is None:
        return None
    kind, member = kind_and_member
    name = members.get(member)
    if not isinstance(name, str):
        return None
    return Target(kind, name, _arguments(method, params))


def _arguments(method: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
    if method in ("tools/call", "prompts/get"):
        arguments = params.get("arguments", {})
        return arguments if isinstance(arguments, dict) else {}
    return _without_meta(params)


def _without_meta(params: Mapping[str, Any]) -> Mapping[str, Any]:
    return {key: value for key, value in params.items() if key != "_meta"}
