"""Proofs of possession made by us: each request with a bound token carries one (RFC 9449 section 4)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import orjson

from agentgw.core.canonical import b64url, b64url_bytes
from agentgw.core.dpop import TYP, token_hash
from agentgw.errors import UpstreamFailed
from agentgw.upstream.http import HttpOrigin, UpstreamResponse

_NONCE = re.compile(rb"[\x21\x23-\x5b\x5d-\x7e]{1,512}")


class NonceDemanded(UpstreamFailed):
    """The server refused a request because its proof lacked the nonce it sent along (section 9)."""


class Prover:
    """Makes proofs for the requests to one URL, and remembers the nonce its server wants.

    `jwk` is the public key and `sign` gives its ES256 signature; `clock` gives Unix seconds, `random` so
    many random bytes.
    """

    def __init__(
        self,
        url: str,
        jwk: Mapping[str, str],
        sign: Callable[[bytes], bytes],
        clock: Callable[[], float],
        random: Callable[[int], bytes],
    ) -> None:
        parts = urlsplit(url)
        self._htu = f"{parts.scheme}://{parts.netloc}{parts.path or '/'}"
        header = {"typ": TYP, "alg": "ES256", "jwk": dict(jwk)}
        self._head = b64url_bytes(orjson.dumps(header)) + b"."
        self._sign = sign
        self._clock = clock
        self._random = random
        self._nonce: str | None = None

    def credentials(self, token: bytes | None, method: bytes) -> bytes:
        """The Authorization and DPoP lines of one request, nothing without a token (section 7.1)."""
        if token is None:
            return b""
        return (
            b"Authorization: DPoP " + token + b"\r\nDPoP: " + self._proof(token, method) + b"\r\n"
        )

    def learn(self, response: UpstreamResponse) -> None:
        """Use from now on the nonce an answer came with, if it did (section 8.2)."""
        nonce = response.headers.get(b"dpop-nonce")
        if nonce is not None and _NONCE.fullmatch(nonce):
            self._nonce = nonce.decode("ascii")

    def _proof(self, token: bytes, method: bytes) -> bytes:
        claims: dict[str, Any] = {
            "jti": b64url(self._random(16)),
            "htm": method.decode("ascii"),
            "htu": self._htu,
            "iat": int(self._clock()),
            "ath": token_hash(token),
        }
        if self._nonce is not None:
            claims["nonce"] = self._nonce
        signed = self._head + b64url_bytes(orjson.dumps(claims))
        return signed + b"." + b64url_bytes(self._sign(signed))


class ProvenOrigin(HttpOrigin):
    """An HttpOrigin whose server may want nonces in our proofs. Raises NonceDemanded besides."""

    def __init__(self, url: str, prover: Prover) -> None:
        super().__init__(url)
        self._prover = prover

    async def open(
        self,
        method: bytes,
        target: bytes,
        headers: bytes,
        body: bytes,
        *,
        deadline: float,
        max_body: int,
    ) -> UpstreamResponse:
        """As HttpOrigin.open; what the answer says of nonces is remembered."""
        response = await super().open(
            method, target, headers, body, deadline=deadline, max_body=max_body
        )
        self._prover.learn(response)
        challenge = response.headers.get(b"www-authenticate", b"")
        if response.status == 401 and b'error="use_dpop_nonce"' in challenge:
            response.abort()
            raise NonceDemanded("it wanted another DPoP nonce, twice in a row")
        return response
