"""DPoP proofs of agents: who holds the key that a token is bound to (RFC 9449)."""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from agentgw.core import dpop
from agentgw.core.canonical import b64url
from agentgw.core.recent import remember
from agentgw.errors import InvalidProof, InvalidToken
from agentgw.identity import jose
from agentgw.identity.jwk import UnusableKey, VerifyKey, read_jwk

PROOF_LIMIT = 8 * 1024
"""Bytes of a proof: an RSA key of 8192 bits with its signature fits."""

_DEPTH = 8
_KEYS_KEPT = 4096
_PUBLIC = ("kty", "crv", "x", "y", "n", "e")
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


class UsedProofs(Protocol):
    """Remembers proofs, for all workers. Raises Unavailable where it cannot."""

    async def once(self, mark: bytes, iat: int) -> bool:
        """True the first time `mark`, of a proof made at `iat` (Unix seconds), is seen; False ever after."""
        ...


class Nonces:
    """Nonces that need no memory: a MAC over the current stretch of time (RFC 9449 section 8).

    `key` (32 bytes) is shared by all workers; each nonce is good for `life` to twice `life` seconds.
    """

    def __init__(self, key: bytes, life: int) -> None:
        self._key = key
        self._life = life

    def current(self, now: float) -> str:
        """The nonce to use from `now` (Unix seconds) on."""
        return self._nonce(int(now // self._life))

    def is_good(self, nonce: str, now: float) -> bool:
        """Whether `nonce` is the current one of ours, or the one before."""
        slot = int(now // self._life)
        return any(
            hmac.compare_digest(self._nonce(number).encode(), nonce.encode("utf-8", "replace"))
            for number in (slot, slot - 1)
        )

    def _nonce(self, slot: int) -> str:
        mac = hmac.digest(self._key, b"dpop-nonce" + slot.to_bytes(8, "big"), hashlib.sha256)
        return b64url(mac[:18])


class ProofVerifier:
    """Verifies the DPoP proof of one request after the other.

    `used` remembers proofs, `window` is how many seconds a proof's `iat` may be away from the clock,
    `nonces`, where given, must stand in each proof.
    """

    def __init__(self, used: UsedProofs, window: int, nonces: Nonces | None = None) -> None:
        self._used = used
        self._window = window
        self.nonces = nonces
        self._keys: OrderedDict[str, VerifyKey] = OrderedDict()

    async def verify(
        self,
        proofs: Sequence[bytes],
        *,
        method: str,
        url: str,
        now: float,
        token: bytes | None = None,
        jkt: str | None = None,
    ) -> str:
        """The thumbprint of the key that made the one proof among `proofs`, the DPoP headers.

        `token` is what the proof must hash, None at the token endpoint; `jkt` the key it must be of,
        None for any. `now` is in Unix seconds. Raises InvalidProof; Unavailable where nobody can tell
        whether the proof was used before.
        """
        if len(proofs) != 1:
            count = "several DPoP headers" if proofs else "no DPoP header"
            raise InvalidProof(f"the request has {count}: send one, with a proof of its own")
        try:
            proof = jose.split(proofs[0], PROOF_LIMIT, _DEPTH, embeds_key=True)
            jwk = _public_key_in(proof.header, proof.typ)
            found = dpop.thumbprint(jwk)
            if jkt is not None and found != jkt:
                raise InvalidProof("the proof is by another key than the token's", "invalid_token")
            jose.verify(proof, self._key(found, jwk))
        except InvalidProof:
            raise
        except InvalidToken as error:
            raise InvalidProof(error.reason.replace("the token", "the proof")) from None
        ath = None if token is None else dpop.token_hash(token)
        said = dpop.check_claims(
            proof.claims, method=method, url=url, ath=ath, now=now, window=self._window
        )
        self._check_nonce(said.nonce, now)
        mark = hashlib.sha256(f"{found}\0{said.jti}".encode("utf-8", "surrogatepass")).digest()
        if not await self._used.once(mark, said.iat):
            raise InvalidProof("the proof was used before: make a new one for each request")
        return found

    def _key(self, thumbprint: str, jwk: Mapping[str, Any]) -> VerifyKey:
        """The key of a proof; its thumbprint says all there is to know of it."""
        key = self._keys.get(thumbprint)
        if key is None:
            try:
                key = read_jwk({name: jwk[name] for name in _PUBLIC if name in jwk})
            except UnusableKey as error:
                raise InvalidProof(f"the proof's jwk cannot be used: {error}") from None
            remember(self._keys, thumbprint, key, _KEYS_KEPT)
        return key

    def _check_nonce(self, nonce: str | None, now: float) -> None:
        if self.nonces is None:
            return
        if nonce is None or not self.nonces.is_good(nonce, now):
            raise InvalidProof(
                "the proof lacks the nonce of the DPoP-Nonce header, or has an old one",
                "use_dpop_nonce",
            )


def _public_key_in(header: Mapping[str, Any], typ: str | None) -> Mapping[str, Any]:
    """The `jwk` of a proof's header. Raises InvalidProof."""
    jwk = header.get("jwk")
    if typ != dpop.TYP:
        raise InvalidProof(f"the proof's typ is not {dpop.TYP}")
    if not isinstance(jwk, dict):
        raise InvalidProof("the proof's header holds no jwk")
    if _PRIVATE & jwk.keys():
        raise InvalidProof("the proof's jwk is a private or symmetric key: send the public one")
    return jwk
