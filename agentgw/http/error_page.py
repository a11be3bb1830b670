"""The page that `data.docs` of a refusal points to: what each code means and what helps."""

from __future__ import annotations

_CODES = (
    (46001, "not_available, unknown_agent", "No grant lets this agent do this for this user, or the agent "
     "is not registered here or is switched off. An operator can grant it or register the agent."),
    (46002, "approval_required", "The operator wants a human to approve each call of this tool."),
    (46003, "revoked", "The user, agent, grant or server lost its rights while the call was under way."),
    (46004, "unavailable", "The gateway could not write its audit log, so it made no call. Try again."),
    (46005, "upstream_failed", "The tool server was unreachable, too slow, or broke the protocol. "
     "Whether the call took effect is not known."),
    (46006, "tool_changed", "The tool's definition differs from the one that was approved, or it was "
     "never approved. An operator can review it and run <code>agentgw server approve</code>."),
    (46007, "limited", "A quota or cap was reached; <code>retry_after_ms</code> says when to come back."),
    (46008, "connect_required", "The tool server knows people by accounts of their own. The user opens the "
     "link in <code>url</code>, signs in and agrees; it works once and for ten minutes. Then call again."),
)  # fmt: skip


def _render() -> bytes:
    rows = "".join(
        f'<tr id="{code}"><td>{code}</td><td>{name}</td><td>{words}</td></tr>'
        for code, name, words in _CODES
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>agentgw: refusals</title>"
        "<h1>Refusals</h1><p>Quote the <code>event_id</code> of yours to an operator, who can run "
        "<code>agentgw why EVENT_ID</code>.</p><table><tr><th>code<th>reason<th>what it means</tr>"
        f"{rows}</table></html>\n"
    ).encode()


ERROR_PAGE = _render()
