"""Refusals that callers see: our JSON-RPC codes, their words, and what would help (listed at `/errors`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

UNKNOWN_AGENT = NOT_AVAILABLE = 46001
APPROVAL_REQUIRED = 46002
REVOKED = 46003
UNAVAILABLE = 46004
UPSTREAM_FAILED = 46005
TOOL_CHANGED = 46006
LIMITED = 46007
CONNECT_REQUIRED = 46008


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refusal. `rule` is opaque to the caller; `hint` says who could help and with what.

    `link` is where the user can help.
    """

    code: int
    reason: str
    message: str
    hint: str
    rule: str = "-"
    missing_scopes: tuple[str, ...] = ()
    retry_after_ms: int | None = None
    link: str | None = None

    def data(self, event_id: str, docs: str) -> dict[str, Any]:
        """The `data` of the JSON-RPC error."""
        data: dict[str, Any] = {
            "event_id": event_id,
            "reason": self.reason,
            "rule": self.rule,
            "missing_scopes": list(self.missing_scopes),
            "hint": self.hint,
            "docs": f"{docs}#{self.code}",
        }
        if self.retry_after_ms is not None:
            data["retry_after_ms"] = self.retry_after_ms
        if self.link is not None:
            data["url"] = self.link
        return data


def unknown_agent(agent: str) -> Refusal:
    """The caller's agent is not registered here, or is switched off."""
    return Refusal(
        UNKNOWN_AGENT,
        "unknown_agent",
        f"{agent} is not a registered agent",
        "ask an operator to register this client under `agents`, or to enable it",
    )


def not_available(
    name: str, agent: str, subject: str, asked: str, by_consent: bool = False
) -> Refusal:
    """Policy or the user's consent says no, or there is no such thing: all look the same.

    `asked` is `server/original`; `by_consent` tells that the caller stands on a consent at all.
    """
    more = "; if there is one, let the user sign in again and consent to it" if by_consent else ""
    return Refusal(
        NOT_AVAILABLE,
        "not_available",
        f"{name} is not available to {agent} acting for {subject}",
        f"ask an operator for a grant on {asked}{more}",
    )


def beyond_the_token(name: str, agent: str, subject: str) -> Refusal:
    """The token's authorization_details are for another tool, or for other arguments (RFC 9396)."""
    return Refusal(
        NOT_AVAILABLE,
        "not_available",
        f"{name} is not available to {agent} acting for {subject}",
        "this token is for one call only, by its authorization_details: ask for one for this call",
    )


def insufficient_scope(name: str, rule: str, missing: tuple[str, ...]) -> Refusal:
    """Policy would allow it if the token carried more scope."""
    return Refusal(
        NOT_AVAILABLE,
        "insufficient_scope",
        f"{name} needs more scope than the token carries",
        "ask the issuer for a token with the missing scopes",
        rule,
        missing,
    )


def approval_required(name: str, rule: str) -> Refusal:
    """The operator wants a human to approve each call of this tool."""
    return Refusal(
        APPROVAL_REQUIRED,
        "approval_required",
        f"{name} needs a human's approval",
        "approvals are not part of this version: ask an operator to drop `approve` or to make the call",
        rule,
    )


def revoked(what: str) -> Refusal:
    """A right that was there is there no more."""
    return Refusal(REVOKED, "revoked", f"{what} was revoked", "ask an operator why")


def tool_changed(name: str, server: str, rule: str) -> Refusal:
    """The server now describes the tool otherwise than when it was approved."""
    return Refusal(
        TOOL_CHANGED,
        "tool_changed",
        f"{name} is withheld: its definition differs from the approved one",
        f"ask an operator to review it and to run `agentgw server approve {server}`",
        rule,
    )


def upstream_failed(server: str, reason: str) -> Refusal:
    """The tool server did not do its part; `reason` is safe to show."""
    return Refusal(
        UPSTREAM_FAILED,
        "upstream_failed",
        f"{server} failed: {reason}",
        "the call may or may not have taken effect; the server's operator can tell",
    )


def connect_required(server: str, reason: str, link: str | None) -> Refusal:
    """The server wants an account of the user's own, which nobody has connected; `reason` is safe to show."""
    if link is None:
        hint = "the one whose account it is connects it at /oauth/connect/" + server
    else:
        hint = f"the user opens {link} once, signs in, and agrees; then call again"
    return Refusal(CONNECT_REQUIRED, "connect_required", reason, hint, link=link)


def limited(what: str, retry_after_ms: int) -> Refusal:
    """A quota or cap was reached."""
    return Refusal(LIMITED, "limited", what, "slow down", retry_after_ms=retry_after_ms)
