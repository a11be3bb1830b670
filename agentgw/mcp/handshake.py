"""The handshake revisions: `initialize` opens a session and fixes the version for all that follows."""

from __future__ import annotations

from typing import Any

from agentgw.errors import MalformedMessage
from agentgw.mcp.message import INVALID_PARAMS, INVALID_REQUEST, Message

VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26")
"""What we speak, newest first. 2025-03-26 is what a request without a version header means."""

ASSUMED_VERSION = "2025-03-26"


def is_handshake(version: str | None) -> bool:
    """True where MCP-Protocol-Version names a handshake revision, or is absent."""
    return version is None or version in VERSIONS or version == "2024-11-05"


def negotiate(message: Message) -> str:
    """The version to answer an `initialize` with: the client's own if we speak it, else our newest."""
    wanted = message.params.get("protocolVersion")
    if not isinstance(wanted, str):
        error = MalformedMessage(400, INVALID_PARAMS, "initialize carries params.protocolVersion")
        error.request_id = message.id
        raise error
    return wanted if wanted in VERSIONS else VERSIONS[0]


def check_version(version: str | None) -> str:
    """The version of a request after the handshake; 400 for one we do not speak (2025-06-18, transports)."""
    if version is None:
        return ASSUMED_VERSION
    if version not in VERSIONS:
        raise MalformedMessage(
            400, INVALID_REQUEST, f"MCP-Protocol-Version must be one of {', '.join(VERSIONS)}"
        )
    return version


def initialize_params(name: str, version: str) -> dict[str, Any]:
    """What we send when we open a session ourselves: no capability that would let the server call us."""
    return {
        "protocolVersion": VERSIONS[0],
        "capabilities": {},
        "clientInfo": {"name": name, "version": version},
    }
