"""The one question behind calls and lists: may this caller have this thing of this server?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from agentgw.core.authorization_details import OneTool
from agentgw.core.consent import BEYOND_CONSENT
from agentgw.core.grants import AccessRequest, Decision, Kind
from agentgw.core.principal import Caller
from agentgw.gateway.incoming import OPEN_STREAM, Server
from agentgw.policy import Policy

BEYOND_THE_TOKEN = "authorization_details"  # noqa: S105 - the name of a rule
"""The `rule` of what is refused because the token is for another tool, or for other arguments."""


class Rules(Protocol):
    """What of the surroundings decides."""

    @property
    def issuer(self) -> str: ...

    @property
    def policy(self) -> Policy: ...


class Tools(Protocol):
    """What of a server decides."""

    @property
    def name(self) -> str: ...

    @property
    def scopes(self) -> Mapping[str, str]: ...


def decide(
    here: Rules,
    caller: Caller,
    server: Tools,
    kind: Kind,
    name: str,
    arguments: Mapping[str, Any] | None,
    now: float,
) -> Decision:
    """The decision of token, consent and policy; `arguments` is None on lists, and there only."""
    one = caller.details
    if one is not None and not _admits(
        one, f"{here.issuer}/mcp/{server.name}", kind, name, arguments
    ):
        return Decision(False, "not_available", BEYOND_THE_TOKEN)
    consent = caller.consent
    if consent is not None and not consent.admits(server.name, kind, name):
        return Decision(False, "not_available", BEYOND_CONSENT)
    return here.policy.decide(
        AccessRequest(
            caller, server.name, kind, name, arguments, needed_scopes(server, kind, name), now
        )
    )


def may_open(issuer: str, caller: Caller, server: Server, method: str) -> bool:
    """Whether what needs no grant may reach `server` for this caller: openings, notifications, responses.

    A token for one tool opens that tool's server, and none of its streams, which tell of more than one
    call; a consent opens the servers it speaks of.
    """
    one, consent = caller.details, caller.consent
    if one is not None and (one.location != f"{issuer}/mcp/{server.name}" or method == OPEN_STREAM):
        return False
    return consent is None or consent.reaches(server.name)


def needed_scopes(server: Tools, kind: Kind, name: str) -> frozenset[str]:
    """The scopes a caller's token needs for this."""
    scope = server.scopes.get(name) if kind == "tools" else None
    return frozenset(scope.split()) if scope else frozenset()


def _admits(
    one: OneTool, location: str, kind: Kind, name: str, arguments: Mapping[str, Any] | None
) -> bool:
    return kind == "tools" and one.admits(location, name, arguments)
