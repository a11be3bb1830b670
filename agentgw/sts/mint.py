"""Signing: claims in, compact JWS out (RFC 7515 section 3.1), at the price of one ECDSA operation."""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Mapping
from typing import Any

import orjson
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from agentgw.sts.keys import KeyRing, TokenKey

_ECDSA = ECDSA(SHA256())
_URL_SAFE = bytes.maketrans(b"+/", b"-_")


class Minter:
    """Signs with whatever key of the ring is current at that moment.

    `issuer` is what the claims' `iss` must say: signing another's name would be our forgery.
    """

    def __init__(self, keyring: KeyRing, issuer: str) -> None:
        self._keyring = keyring
        self._issuer = issuer
        self._key: TokenKey | None = None
        self._heads: dict[str, bytes] = {}

    def sign(self, claims: Mapping[str, Any], typ: str = "at+jwt") -> bytes:
        """The compact JWS of `claims`, ES256 (RFC 7518 section 3.4), with `typ` and the key's `kid`.

        Raises ValueError when `iss` is not ours.
        """
        if claims.get("iss") != self._issuer:
            raise ValueError("claims name another issuer")
        key = self._keyring.current
        if key is not self._key:
            self._key, self._heads = key, {}
        head = self._heads.get(typ)
        if head is None:
            header = {"alg": "ES256", "typ": typ, "kid": key.kid}
            head = self._heads[typ] = _segment(orjson.dumps(header)) + b"."
        signed = head + _segment(orjson.dumps(claims))
        r, s = decode_dss_signature(key.private.sign(signed, _ECDSA))
        return signed + b"." + _segment(r.to_bytes(32, "big") + s.to_bytes(32, "big"))


def _segment(data: bytes) -> bytes:
    return b2a_base64(data, newline=False).translate(_URL_SAFE).rstrip(b"=")
