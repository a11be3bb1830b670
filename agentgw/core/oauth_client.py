"""A client of our authorization server: which agent it is, where its users are sent back to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

ClientKind = Literal["registered", "metadata", "dynamic"]
"""How we know a client: by the operator's file, a document at its `client_id`, its own word (RFC 7591)."""


@dataclass(frozen=True, slots=True)
class OAuthClient:
    """One client that may send users to our authorization endpoint.

    `agent` is the configured agent that it is. `name` is to be shown, and proves nothing unless `kind` is
    `registered`. `redirect_uris` are matched by `core/authorize.py` and nothing else. `public`: the client
    has no credentials, so PKCE is all that holds its codes together. `host` is whose it claims to be, to be
    shown: that of its `client_id` where this is a URL, else empty. `keys` are the JWKs by which it proves
    itself (private_key_jwt); they are at `jwks_uri` where that is
    set, and there are none for public clients.
    """

    client_id: str
    agent: str
    name: str
    kind: ClientKind
    redirect_uris: tuple[str, ...]
    public: bool = True
    host: str = ""
    keys: tuple[Mapping[str, Any], ...] = ()
    jwks_uri: str | None = None

    @property
    def evidence(self) -> str:
        """What the agent's hop is worth: who has a document's key is proven, that it is this agent is not."""
        return "exchange" if self.kind == "registered" and not self.public else "consent"
