"""The gateway as a client that publishes its own metadata: how it proves itself (`private_key_jwt`)."""

from __future__ import annotations

from typing import Any

from agentgw.sts.algorithms import ES256, TokenKey, kid_of
from agentgw.sts.client_assertion import ClientKey, client_assertion
from agentgw.sts.possession_key import derived_key


class OwnClient:
    """Proves that we are the client of a client metadata document, by a key of that purpose alone.

    `secret` is 32 bytes. No token of ours is ever signed with it.
    """

    def __init__(self, secret: bytes) -> None:
        private = derived_key(secret, b"agentgw client key")
        public = private.public_key()
        self.kid = kid_of(public)
        self._public = TokenKey(self.kid, ES256, public, 0)
        self._private = ClientKey(private, ES256, self.kid)

    def jwks(self) -> dict[str, Any]:
        """The JWK Set that the document's `jwks_uri` leads to."""
        return {"keys": [self._public.jwk()]}

    def assertion(self, client_id: str, audience: str, now: float, jti: str) -> str:
        """An assertion for one use at `audience` within a minute (RFC 7523); `now` is in Unix seconds."""
        return client_assertion(self._private, client_id, audience, now, jti)
