"""What the identity room may know of the tokens we issued ourselves."""

from __future__ import annotations

from agentgw.core.principal import Issued
from agentgw.identity.jwk import VerifyKey, read_jwk
from agentgw.registry.ledger import LedgerQueue
from agentgw.sts.keys import KeyRing


class OwnTokens:
    """What the identity room may know of the tokens we issued."""

    def __init__(self, issuer: str, keyring: KeyRing, ledger: LedgerQueue) -> None:
        self.issuer = issuer
        self._keyring = keyring
        self._ledger = ledger
        self._bound: dict[str, VerifyKey] = {}

    def key(self, kid: str) -> VerifyKey | None:
        """The public key we sign, or lately signed, with under `kid`, for its algorithm alone."""
        key = self._keyring.key(kid)
        if key is None:
            return None
        if kid not in self._bound:
            self._bound[kid] = read_jwk(key.jwk())
        return self._bound[kid]

    async def issued(self, jti: str) -> Issued | None:
        """The ledger's entry of a token for our own endpoints. Raises Unavailable."""
        return await self._ledger.find(jti)
