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


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refusal. `rule` is opaque to the caller; `hint` says who could help and with what."""

    code: int
    reason: str
    message: str
    hint: str
    rule: str = "-"
    missing_scopes: tuple[str, ...] = ()
    retry_after_ms: int | None = None

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
        return data


def unknown_agent(agent: str) -> Refusal:
    """The caller's agent is not registered here, or is switched off."""
    return Refusal(
        UNKNOWN_AGENT,
        "unknown_agent",
        f"{agent} is not a registered agent",
        "ask an operator to register this client under `agents`, or to enable it",
    )


def not_available(name: str, agent: str, subject: str, asked: str) -> Refusal:
    """Policy says no, or there is no such thing: both look the same. `asked` is `server/original`."""
    return Refusal(
        NOT_AVAILABLE,
        "not_available",
        f"{name} is not available to {agent} acting for {subject}",
        f"ask an operator for a grant on {asked}",
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


def limited(what: str, retry_after_ms: int) -> Refusal:
    """A quota or cap was reached."""
    return Refusal(LIMITED, "limited", what, "slow down", retry_after_ms=retry_after_ms)
