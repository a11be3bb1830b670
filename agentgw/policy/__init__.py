"""What may happen: the contract between the story and whoever decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from agentgw.core.principal import Caller

Kind = Literal["tools", "resources", "prompts", "methods"]


@dataclass(frozen=True, slots=True)
class AccessRequest:
    """One question: may `caller` do this? `arguments` is None on lists (conditions then count as true).

    `name` is the original name at the server (tool, prompt, resource URI) or, for kind `methods`, the
    JSON-RPC method. `scopes` are what the target demands of the caller's token.
    """

    caller: Caller
    server: str
    kind: Kind
    name: str
    arguments: Mapping[str, Any] | None
    scopes: frozenset[str]
    now: float


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer. `reason` is None on allow, else `unknown_agent`, `not_available` or
    `insufficient_scope`; `rule` names what decided (`-` where no row matched); `missing_scopes` is
    filled only where policy would allow with them."""

    allow: bool
    reason: str | None
    rule: str
    missing_scopes: tuple[str, ...] = ()


class Policy(Protocol):
    """Decides from values alone, so the same question always has the same answer for one `version`."""

    @property
    def version(self) -> str: ...

    def decide(self, request: AccessRequest) -> Decision: ...
