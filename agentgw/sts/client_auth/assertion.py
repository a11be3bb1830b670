"""Clients that prove themselves with a JWT they signed (`private_key_jwt`, RFC 7523 section 3)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from agentgw.errors import InvalidToken

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ASSERTION_ALGORITHMS = ("ES256", "RS256", "EdDSA", "Ed25519")

MAX_AHEAD = 300
LEEWAY = 5

_TYPES = (None, "jwt", "client-authentication+jwt")


class Assertion(Protocol):
    """A JWT taken apart, its signature not yet looked at."""

    @property
    def alg(self) -> str: ...

    @property
    def kid(self) -> str | None: ...

    @property
    def typ(self) -> str | None: ...

    @property
    def claims(self) -> Mapping[str, Any]: ...


class ReplayStore(Protocol):
    """Remembers which assertions were used, for all workers and on disk."""

    def once(self, client: str, jti: str, exp: int) -> bool: ...


class AssertionCheck:
    """Judges client assertions; `issuer` is the one audience they may have.

    `verify(unverified, key)` checks a signature and raises InvalidToken; `clock` gives Unix seconds.
    """

    def __init__(
        self,
        issuer: str,
        verify: Callable[[Any, Any], None],
        used: ReplayStore,
        clock: Callable[[], float],
    ) -> None:
        self._issuer = issuer
        self._verify = verify
        self._used = used
        self._clock = clock

    async def check(self, assertion: Assertion, client: str, keys: Iterable[Any]) -> None:
        """The assertion was made by the holder of one of `keys`, for us, just now, and is new.

        Raises InvalidToken, or Unavailable when a used assertion cannot be remembered.
        """
        if assertion.typ not in _TYPES:
            raise InvalidToken("typ is not that of a client assertion")
        self._check_signature(assertion, keys)
        exp = check_audience_and_times(assertion.claims, self._issuer, self._clock())
        jti = assertion.claims.get("jti")
        if not isinstance(jti, str) or not 0 < len(jti) <= 200:
            raise InvalidToken("jti must be a string of 1 to 200 characters")
        # Kept past the leeway, within which the assertion would still pass.
        if not await asyncio.to_thread(self._used.once, client, jti, exp + LEEWAY + 1):
            raise InvalidToken("it was used before: make a new one each time")

    def _check_signature(self, assertion: Assertion, keys: Iterable[Any]) -> None:
        if assertion.alg not in ASSERTION_ALGORITHMS:
            raise InvalidToken(f"alg is none of {', '.join(ASSERTION_ALGORITHMS)}")
        failure = InvalidToken("no key of the client has this kid")
        for key in keys:
            if assertion.kid is not None and getattr(key, "kid", None) not in (None, assertion.kid):
                continue
            try:
                self._verify(assertion, key)
            except InvalidToken as error:
                failure = error
            else:
                return
        raise failure


def check_audience_and_times(claims: Mapping[str, Any], issuer: str, now: float) -> int:
    """The assertion is for `issuer` alone and lives shortly; returns its `exp`. Raises InvalidToken."""
    if claims.get("aud") != issuer:
        # A list, or the token endpoint's URL, would let one server's assertion open another.
        raise InvalidToken("aud must be our issuer, as one string")
    exp = claims.get("exp")
    if type(exp) is not int or exp <= now - LEEWAY:
        raise InvalidToken("exp is missing or past")
    if exp > now + MAX_AHEAD + LEEWAY:
        raise InvalidToken(f"exp lies more than {MAX_AHEAD} seconds ahead")
    for name in ("iat", "nbf"):
        moment = claims.get(name, 0)
        if type(moment) is not int or moment > now + LEEWAY:
            raise InvalidToken(f"{name} is no time in the past")
    return exp
