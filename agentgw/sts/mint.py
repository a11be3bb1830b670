"""Signing: claims in, compact JWS out (RFC 7515 section 3.1), at the price of one signature."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import Executor
from typing import Any

import orjson

from agentgw.core.canonical import b64url_bytes
from agentgw.errors import Unavailable
from agentgw.sts.algorithms import ES256, Sign, TokenKey
from agentgw.sts.keys import KeyRing

DEVICE_SECONDS = 10.0
"""How long a signature may take that a device makes."""

_Prepared = dict[tuple[str, str], tuple[bytes, Sign]]
"""The head of a token and what signs it, by `alg` and `typ`."""

SIGNING_SECONDS = 0.002
"""Seconds after which signing lets the event loop do something else in between."""


class Minter:
    """Signs with whatever key of the ring is current at that moment.

    `issuer` is what the claims' `iss` must say: signing another's name would be our forgery.
    """

    def __init__(self, keyring: KeyRing, issuer: str) -> None:
        self._keyring = keyring
        self._issuer = issuer
        # In one piece, as several threads may sign at once.
        self._prepared: tuple[Mapping[str, TokenKey], _Prepared] = ({}, {})
        self._waiting: list[tuple[asyncio.Future[bytes], Mapping[str, Any], str, str]] = []

    def mint(
        self, claims: Mapping[str, Any], typ: str = "at+jwt", alg: str = ES256
    ) -> asyncio.Future[bytes]:
        """The same as `sign`, in the event loop's next round together with whatever else waits.

        A key that lies in a device which takes its time signs off the loop. The future raises
        ValueError as `sign` does, and Unavailable where the device does not sign.
        """
        loop = asyncio.get_running_loop()
        key = self._keyring.signing.get(alg)
        if key is not None and key.pool is not None:
            return loop.create_task(self._by_device(key.pool, claims, typ, alg))
        if not self._waiting:
            loop.call_soon(self._sign_waiting, loop)
        future: asyncio.Future[bytes] = loop.create_future()
        self._waiting.append((future, claims, typ, alg))
        return future

    async def _by_device(
        self, pool: Executor, claims: Mapping[str, Any], typ: str, alg: str
    ) -> bytes:
        signing = asyncio.get_running_loop().run_in_executor(pool, self.sign, claims, typ, alg)
        try:
            async with asyncio.timeout(DEVICE_SECONDS):
                return await signing
        except TimeoutError:
            raise Unavailable(f"the HSM gave no signature in {DEVICE_SECONDS:g} s") from None

    def sign(self, claims: Mapping[str, Any], typ: str = "at+jwt", alg: str = ES256) -> bytes:
        """The compact JWS of `claims` by `alg` (RFC 7518 section 3), with `typ` and the key's `kid`.

        Raises ValueError when `iss` is not ours, where there is no key for `alg`, or for claims that
        cannot be written.
        """
        if claims.get("iss") != self._issuer:
            raise ValueError("claims name another issuer")
        signing = self._keyring.signing
        keys, prepared = self._prepared
        if keys is not signing:
            self._prepared = signing, (prepared := {})
        ready = prepared.get((alg, typ))
        if ready is None:
            ready = prepared[alg, typ] = _prepare(signing.get(alg), alg, typ)
        head, sign = ready
        signed = head + b64url_bytes(_written(claims))
        return signed + b"." + b64url_bytes(sign(signed))

    def _sign_waiting(self, loop: asyncio.AbstractEventLoop) -> None:
        """Sign what waits, one after the other while the curve's tables are at hand (ADR 18)."""
        waiting, self._waiting = self._waiting, []
        enough = loop.time() + SIGNING_SECONDS
        for number, (future, claims, typ, alg) in enumerate(waiting, 1):
            if not future.done():
                try:
                    future.set_result(self.sign(claims, typ, alg))
                except ValueError as error:
                    future.set_exception(error)
            if loop.time() > enough and number < len(waiting):
                if not self._waiting:
                    loop.call_soon(self._sign_waiting, loop)
                self._waiting[:0] = waiting[number:]
                return


def _written(claims: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(claims)
    except TypeError as error:
        raise ValueError(f"the claims cannot be written: {error}") from None


def _prepare(key: TokenKey | None, alg: str, typ: str) -> tuple[bytes, Sign]:
    if key is None or key.sign is None:
        raise ValueError(f"there is no key for {alg}")
    header = {"alg": key.alg, "typ": typ, "kid": key.kid}
    return b64url_bytes(orjson.dumps(header)) + b".", key.sign
