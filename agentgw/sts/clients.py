"""Which agent stands at the token endpoint: client authentication (RFC 6749 section 2.3, RFC 7523)."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import unquote_plus

from agentgw.errors import InvalidToken, OAuthError

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ASSERTION_ALGORITHMS = ("ES256", "RS256", "EdDSA", "Ed25519")
METHODS = ("client_secret_basic", "client_secret_post", "private_key_jwt")

_TYPES = (None, "jwt", "client-authentication+jwt")
_MAX_AHEAD = 300
_LEEWAY = 5


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


@dataclass(frozen=True, slots=True)
class Client:
    """An agent's credentials: a shared secret, public keys of its own, or both kinds.

    `keys` are whatever the assertion verifier takes; each may have a `kid`.
    """

    agent: str
    secret: str | None = field(default=None, repr=False)
    keys: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class AuthenticatedClient:
    """An agent that proved itself, and by which of METHODS."""

    agent: str
    method: str


class ClientAuthenticator:
    """Authenticates clients whose `client_id` is the agent's name.

    `clients` gives the credentials by agent name as configured now. `split(token)` takes a JWT apart
    and `verify(unverified, key)` checks its signature; both raise InvalidToken. `clock` gives Unix
    seconds. `issuer` is the one audience an assertion may have.
    """

    def __init__(
        self,
        clients: Callable[[], Mapping[str, Client]],
        issuer: str,
        *,
        split: Callable[[str], Assertion],
        verify: Callable[[Any, Any], None],
        used: ReplayStore,
        clock: Callable[[], float],
    ) -> None:
        self._clients = clients
        self._issuer = issuer
        self._split = split
        self._verify = verify
        self._used = used
        self._clock = clock

    async def authenticate(
        self, authorization: str | None, form: Mapping[str, str]
    ) -> AuthenticatedClient:
        """The one agent that the `Authorization` value or the form parameters prove.

        Raises OAuthError: invalid_request for more than one method, else invalid_client (401).
        Raises Unavailable when a used assertion cannot be remembered.
        """
        in_body = "client_secret" in form
        by_assertion = "client_assertion" in form or "client_assertion_type" in form
        if (authorization is not None) + in_body + by_assertion > 1:
            raise OAuthError("invalid_request", "authenticate with one method, not several")
        if by_assertion:
            return await self._by_assertion(form)
        if authorization is not None:
            name, secret = _basic(authorization)
            if form.get("client_id", name) != name:
                raise OAuthError("invalid_request", "client_id names another client")
            return self._by_secret(name, secret, "client_secret_basic")
        if in_body:
            return self._by_secret(form.get("client_id", ""), form["client_secret"], METHODS[1])
        raise _invalid_client(
            "this endpoint needs an authenticated client; public ones get nothing"
        )

    def _by_secret(self, name: str, secret: str, method: str) -> AuthenticatedClient:
        client = self._clients().get(name)
        kept = None if client is None else client.secret
        # Digests have one length, so the comparison tells nothing of the secret's.
        same = hmac.compare_digest(_hash(secret), _hash(kept or ""))
        if not kept or not same:
            raise _invalid_client("the client or its secret is unknown")
        return AuthenticatedClient(name, method)

    async def _by_assertion(self, form: Mapping[str, str]) -> AuthenticatedClient:
        if form.get("client_assertion_type") != ASSERTION_TYPE:
            raise OAuthError("invalid_request", f"client_assertion_type must be {ASSERTION_TYPE}")
        if "client_assertion" not in form:
            raise OAuthError("invalid_request", "client_assertion is missing")
        try:
            assertion = self._split(form["client_assertion"])
            client = self._named_by(assertion, form.get("client_id"))
            self._check_signature(assertion, client)
        except InvalidToken as error:
            raise _invalid_client(f"the client_assertion was refused: {error.reason}") from None
        jti, exp = self._check_claims(assertion.claims)
        # Kept past the leeway, within which the assertion would still pass.
        if not await asyncio.to_thread(self._used.once, client.agent, jti, exp + _LEEWAY + 1):
            raise _invalid_client("the client_assertion was used before: make a new one each time")
        return AuthenticatedClient(client.agent, "private_key_jwt")

    def _named_by(self, assertion: Assertion, client_id: str | None) -> Client:
        sub, iss = assertion.claims.get("sub"), assertion.claims.get("iss")
        if not isinstance(sub, str) or iss != sub or client_id not in (None, sub):
            raise InvalidToken("iss, sub and client_id are not one and the same client")
        client = self._clients().get(sub)
        if client is None or not client.keys:
            raise InvalidToken("no keys are registered for this client")
        return client

    def _check_signature(self, assertion: Assertion, client: Client) -> None:
        if assertion.alg not in ASSERTION_ALGORITHMS:
            raise InvalidToken(f"alg is none of {', '.join(ASSERTION_ALGORITHMS)}")
        if assertion.typ not in _TYPES:
            raise InvalidToken("typ is not that of a client assertion")
        failure = InvalidToken("no key of the client has this kid")
        for key in client.keys:
            if assertion.kid is not None and getattr(key, "kid", None) not in (None, assertion.kid):
                continue
            try:
                self._verify(assertion, key)
            except InvalidToken as error:
                failure = error
            else:
                return
        raise failure

    def _check_claims(self, claims: Mapping[str, Any]) -> tuple[str, int]:
        now = self._clock()
        exp, jti = claims.get("exp"), claims.get("jti")
        if claims.get("aud") != self._issuer:
            # A list, or the token endpoint's URL, would let one server's assertion open another.
            raise _invalid_client("aud must be our issuer, as one string")
        if type(exp) is not int or exp <= now - _LEEWAY:
            raise _invalid_client("exp is missing or past")
        if exp > now + _MAX_AHEAD + _LEEWAY:
            raise _invalid_client(f"exp lies more than {_MAX_AHEAD} seconds ahead")
        for name in ("iat", "nbf"):
            moment = claims.get(name, 0)
            if type(moment) is not int or moment > now + _LEEWAY:
                raise _invalid_client(f"{name} is no time in the past")
        if not isinstance(jti, str) or not 0 < len(jti) <= 200:
            raise _invalid_client("jti must be a string of 1 to 200 characters")
        return jti, exp


def _basic(authorization: str) -> tuple[str, str]:
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() != "basic":
        raise _invalid_client("the one Authorization scheme here is Basic")
    try:
        pair = base64.b64decode(credentials.strip(), validate=True).decode("utf-8")
        name, colon, secret = pair.partition(":")
        name, secret = unquote_plus(name, errors="strict"), unquote_plus(secret, errors="strict")
    except (binascii.Error, ValueError):
        raise _invalid_client("the Basic credentials cannot be read") from None
    if not colon:
        raise _invalid_client("the Basic credentials hold no colon")
    return name, secret


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _invalid_client(description: str) -> OAuthError:
    return OAuthError("invalid_client", description, status=401)
