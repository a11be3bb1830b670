"""Accounts that users connected at tool servers: whose, where, and what is kept of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from agentgw.core.canonical import b64url
from agentgw.core.upstream_oauth import Tokens


class Place(NamedTuple):
    """What a credential is bound to: a user (issuer alias and sub), the authorization server that made it,
    the tool server by our name for it, and the resource identifier it is sent to. One that differs in any
    of these is another credential."""

    user_iss: str
    user_sub: str
    issuer: str
    server: str
    resource: str


def account_key(place: Place, connected: float) -> str:
    """The name of an account as it was connected at that time (Unix seconds): what is disconnected is just
    this, and what its user connects at the same place later is another."""
    named = json.dumps([*place, connected]).encode()
    return b64url(hashlib.sha256(b"agentgw account\0" + named).digest())


class Opened(NamedTuple):
    """What was kept at a place, unsealed; `version` counts the changes of its row, `connected` is when it was
    put there (Unix seconds)."""

    content: Mapping[str, Any]
    version: int
    connected: float


@dataclass(frozen=True, slots=True)
class Account:
    """A connected account. `client_id` is who we were there; `exp` (Unix seconds) ends the access token,
    None: not told. `version` counts the changes of its row, `connected` is when its user connected it."""

    access: str = field(repr=False)
    refresh: str | None = field(repr=False)
    scopes: frozenset[str]
    exp: int | None
    client_id: str
    version: int
    connected: float = 0.0

    @classmethod
    def read(cls, content: Mapping[str, Any], version: int, connected: float = 0.0) -> Account:
        """The account of what was kept by `content_of`."""
        scopes = frozenset(content["scopes"])
        exp, client_id = content["exp"], content["client_id"]
        access, refresh = content["access"], content["refresh"]
        return cls(access, refresh, scopes, exp, client_id, version, connected)


def content_of(
    tokens: Tokens, client_id: str, asked: frozenset[str], before: Account | None = None
) -> dict[str, Any]:
    """What is kept of an answer. Scopes it does not name are those `asked` (RFC 6749 section 5.1); a
    refresh token it does not replace stays (section 6)."""
    kept = None if before is None else before.refresh
    return {
        "access": tokens.access,
        "refresh": tokens.refresh or kept,
        "scopes": sorted(asked if tokens.scopes is None else tokens.scopes),
        "exp": tokens.exp,
        "client_id": client_id,
    }
