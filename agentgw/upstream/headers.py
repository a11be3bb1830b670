"""Header lines of MCP over HTTP: those we write to a tool server, and what its answer's mean to us."""

from __future__ import annotations

import re

from agentgw.errors import CredentialRefused, UpstreamFailed
from agentgw.upstream.response import UpstreamResponse
from agentgw.upstream.sessions import Session

EVENT_STREAM = b"text/event-stream"
_VISIBLE = re.compile(rb"[\x21-\x7e]{1,512}")


def bearer_line(token: bytes | None, _method: bytes) -> bytes:
    """The Authorization line of a token, nothing without one (RFC 6750 section 2.1)."""
    return b"" if token is None else b"Authorization: Bearer " + token + b"\r\n"


def session_id(response: UpstreamResponse) -> str | None:
    """The Mcp-Session-Id of an answer. Raises UpstreamFailed where the protocol does not allow it."""
    value = response.headers.get(b"mcp-session-id")
    if value is None:
        return None
    if not _VISIBLE.fullmatch(value):
        response.abort()
        raise UpstreamFailed("it sent a session id with characters the protocol does not allow")
    return value.decode("ascii")


def session_line(session: str) -> bytes:
    """The Mcp-Session-Id line."""
    return f"Mcp-Session-Id: {session}\r\n".encode("ascii")


def session_lines(session: Session) -> bytes:
    """The lines of a request in `session`: its version and, where it has one, its id."""
    lines = f"MCP-Protocol-Version: {session.version}\r\n".encode("ascii")
    return lines if session.id is None else lines + session_line(session.id)


def is_stream(response: UpstreamResponse) -> bool:
    """Whether an answer is an event stream."""
    return response.headers.get(b"content-type", b"").lstrip().startswith(EVENT_STREAM)


def may_pass(status: int, response: UpstreamResponse) -> bool:
    """A JSON answer the protocol knows. 401 and 403 are about our token, never about the agent's."""
    is_json = response.headers.get(b"content-type", b"").lstrip().startswith(b"application/json")
    return is_json and (status == 200 or (400 <= status < 500 and status not in (401, 403, 407)))


def failure(response: UpstreamResponse) -> UpstreamFailed:
    """Why an answer with this status cannot be passed on."""
    status = response.status
    if status in (401, 403, 407):
        challenge = response.headers.get(b"www-authenticate")
        if challenge is not None and any(secret in challenge for secret in response.shown):
            challenge = None  # what it demands would be shown and written down
        return CredentialRefused(
            f"it refused the gateway's credentials (HTTP {status})",
            status,
            None if challenge is None else challenge[:8192].decode("latin-1"),
        )
    return UpstreamFailed(_complaint(status))


def _complaint(status: int) -> str:
    match status:
        case _ if 300 <= status < 400:
            return f"it answered with a redirect (HTTP {status}), which is never followed"
        case _ if status >= 500:
            return f"it failed (HTTP {status})"
        case 200:
            return "it answered with something that is neither JSON nor an event stream"
    return f"it answered with HTTP {status}"
