"""Clients with a key in their own document (CIMD with private_key_jwt): who made an assertion."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping

import httpx2

from agentgw.core.oauth_client import OAuthClient
from agentgw.core.recent import remember
from agentgw.errors import InvalidToken, OAuthError, UnverifiableToken
from agentgw.identity import jose
from agentgw.identity.jwk import UnusableKey, VerifyKey, read_jwk
from agentgw.identity.oidc import OidcKeys
from agentgw.sts.client_auth.assertion import ASSERTION_TYPE, AssertionCheck

KEPT = 1_000
LAST_RESORT = 3600.0
"""Seconds for which keys go on counting where they cannot be fetched anew."""

Find = Callable[[str], Awaitable[OAuthClient | None]]


class DocumentClients:
    """Judges client assertions of clients that `find` knows by a document; `guarded` fetches their keys and
    stays its owner's. `dev` tells whether that may be on loopback over http."""

    def __init__(
        self,
        find: Find,
        check: AssertionCheck,
        guarded: httpx2.AsyncClient,
        dev: Callable[[], bool],
    ) -> None:
        self._find = find
        self._check = check
        self._guarded = guarded
        self._dev = dev
        self._fetched: OrderedDict[str, OidcKeys] = OrderedDict()

    async def prove(self, form: Mapping[str, str]) -> OAuthClient | None:
        """The client that made the form's client_assertion; None where it is of no such client.

        Raises OAuthError (invalid_client, 401), or Unavailable where a used assertion cannot be remembered.
        """
        if form.get("client_assertion_type") != ASSERTION_TYPE or "client_secret" in form:
            return None
        try:
            assertion = jose.split(form["client_assertion"])
            name = assertion.claims.get("sub")
            client = await self._find(name) if isinstance(name, str) else None
            if client is None or client.kind != "metadata" or client.public:
                return None
            if assertion.claims.get("iss") != name or form.get("client_id", name) != name:
                raise InvalidToken("iss, sub and client_id are not one and the same client")
            await self._check.check(
                assertion, client.client_id, await self._keys(client, assertion)
            )
        except InvalidToken as error:
            raise _refused(f"the client_assertion was refused: {error.reason}") from None
        except OAuthError as error:
            if error.error != "invalid_client_metadata":
                raise
            raise _refused(error.description) from None
        return client

    async def close(self) -> None:
        """Stop what is under way."""
        for keys in self._fetched.values():
            await keys.aclose()

    async def _keys(self, client: OAuthClient, assertion: jose.Unverified) -> list[VerifyKey]:
        if client.jwks_uri is None:
            return [key for key in map(_usable, client.keys) if key is not None]
        keys = self._fetched.get(client.jwks_uri)
        if keys is None:
            keys = OidcKeys(
                client.jwks_uri,
                self._guarded,
                jwks_uri=client.jwks_uri,
                dev=self._dev(),
                last_resort=LAST_RESORT,
            )
        remember(self._fetched, client.jwks_uri, keys, KEPT)
        try:
            return [await keys.find(assertion.kid, assertion.alg)]
        except UnverifiableToken:
            raise InvalidToken("the client's keys cannot be fetched") from None
        except InvalidToken:
            raise InvalidToken("no key of the client has this kid and alg") from None


def _usable(jwk: Mapping[str, object]) -> VerifyKey | None:
    try:
        return read_jwk(jwk)
    except UnusableKey:
        return None


def _refused(description: str) -> OAuthError:
    return OAuthError("invalid_client", description, status=401)
