"""The gateway's public keys, fetched when needed and kept (RFC 7517)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import httpx2
from jwt import PyJWK
from jwt.exceptions import PyJWTError

from agentgw.verify.canonical import NotCanonical, strict_json

ALGORITHMS = ("ES256", "EdDSA", "RS256")
MAX_AGE = 300.0
COOL_DOWN = 10.0
RETRY = 1.0
_SIZE = 256 * 1024
_DEADLINE = 3.0


class KeysUnavailable(Exception):
    """No key set could be had; the message says why."""


class JwksCache:
    """The keys at `jwks_uri` by kid. Fetches once for all who wait; keeps the last good set.

    An unknown kid leads to one fetch each COOL_DOWN seconds at most, whoever makes kids up. `client`
    is used as it stands if given; `monotonic` gives seconds.
    """

    def __init__(
        self,
        jwks_uri: str,
        *,
        client: httpx2.AsyncClient | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._uri = jwks_uri
        self._client = client
        self._own_client = client is None
        self._monotonic = monotonic
        self._keys: dict[str, PyJWK] = {}
        self._fetched: float | None = None
        self._next_try = float("-inf")
        self._lock = asyncio.Lock()

    async def find(self, kid: str) -> PyJWK | None:
        """The key of that id, or None. Raises KeysUnavailable when there never was a key set."""
        key = self._keys.get(kid)
        if key is not None and not self._is_stale():
            return key
        async with self._lock:
            if (kid not in self._keys or self._is_stale()) and self._monotonic() >= self._next_try:
                await self._fetch()
        if self._fetched is None:
            raise KeysUnavailable("the gateway's keys cannot be fetched at this moment")
        return self._keys.get(kid)

    async def close(self) -> None:
        """Close the HTTP client this cache made, if any."""
        if self._own_client and self._client is not None:
            await self._client.aclose()
            self._client = None

    def _is_stale(self) -> bool:
        return self._fetched is None or self._monotonic() - self._fetched > MAX_AGE

    async def _fetch(self) -> None:
        self._next_try = self._monotonic() + RETRY
        if self._client is None:
            self._client = httpx2.AsyncClient(trust_env=False)
        try:
            async with asyncio.timeout(_DEADLINE):
                keys = _usable(strict_json(await self._download(self._client)))
        except (httpx2.HTTPError, TimeoutError, NotCanonical):
            return
        if keys:
            self._keys = keys
            self._fetched = self._monotonic()
            self._next_try = self._fetched + COOL_DOWN

    async def _download(self, client: httpx2.AsyncClient) -> bytes:
        body = bytearray()
        async with client.stream("GET", self._uri, follow_redirects=False) as answer:
            if answer.status_code != 200:
                raise NotCanonical("the answer is no 200")
            async for chunk in answer.aiter_bytes():
                body += chunk
                if len(body) > _SIZE:
                    raise NotCanonical("the key set is too large")
        return bytes(body)


def _usable(document: object) -> dict[str, PyJWK]:
    listed = document.get("keys") if isinstance(document, dict) else None
    keys: dict[str, PyJWK] = {}
    for jwk in listed if isinstance(listed, list) else []:
        # One bad member must not cost us the good ones.
        if not isinstance(jwk, dict) or not isinstance(jwk.get("kid"), str):
            continue
        if jwk.get("alg") not in ALGORITHMS or jwk.get("use", "sig") != "sig" or "d" in jwk:
            continue
        try:
            keys[jwk["kid"]] = PyJWK(jwk)
        except (PyJWTError, ValueError, TypeError, KeyError):
            continue
    return keys
