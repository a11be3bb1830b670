"""Somebody who got hold of a token and tries what it opens."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import httpx2

from agentgw.demo.stage import Stage

_LIST = b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{}}'
_HOP = ("host", "content-length", "connection", "transfer-encoding")


@dataclass(frozen=True, slots=True)
class Stolen:
    """One whole request as tickets received it."""

    token: str = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    body: str


@dataclass(frozen=True, slots=True)
class Answered:
    """How a request of the thief was answered; `reason` is the server's word."""

    status: int
    reason: str

    def __str__(self) -> str:
        return f"{self.status} {self.reason}".rstrip()


def steal(stage: Stage) -> Stolen:
    """The last tool call that tickets let slip (`--leak-to`), its per-call token included."""
    leaked = json.loads(stage.leak.read_text("utf-8"))
    headers = {name: value for name, value in leaked["headers"].items() if name not in _HOP}
    return Stolen(headers["authorization"].partition(" ")[2], headers, leaked["body"])


def present(url: str, token: str) -> Answered:
    """Ask an MCP endpoint for its tools with a token that was not made for it."""
    headers = {
        "Authorization": f"Bearer {token}",
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2025-11-25",
    }
    return _post(url, headers, _LIST)


def replay(url: str, stolen: Stolen, change: tuple[str, str] | None = None) -> Answered:
    """Send the stolen request again: byte for byte, or with one piece of its body replaced."""
    body = stolen.body if change is None else stolen.body.replace(*change)
    if change is not None and body == stolen.body:
        raise ValueError(f"the stolen call holds no {change[0]}")
    return _post(url, stolen.headers, body.encode())


def _post(url: str, headers: dict[str, str], body: bytes) -> Answered:
    with httpx2.Client(trust_env=False, timeout=30) as client:
        answer = client.post(url, headers=headers, content=body)
    return Answered(answer.status_code, _reason(answer))


def _reason(answer: httpx2.Response) -> str:
    """What the body says, else the error of the challenge (RFC 6750 section 3)."""
    try:
        said = answer.json()
    except ValueError:
        said = None
    if isinstance(said, dict) and isinstance(said.get("error_description"), str):
        return str(said["error_description"])
    _, found, rest = answer.headers.get("www-authenticate", "").partition('error="')
    return rest.partition('"')[0] if found else ""
