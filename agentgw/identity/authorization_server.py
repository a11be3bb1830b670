"""Another authorization server as its client sees it: its token endpoint, and what its tokens say."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import httpx2

from agentgw.core.external_answer import ReadToken
from agentgw.errors import AnswerRefused, InvalidToken, UnverifiableToken, UpstreamFailed
from agentgw.identity import jose
from agentgw.identity.introspection import Introspected, basic_credentials
from agentgw.identity.jwk import VerifyKey
from agentgw.identity.oidc import IssuerUnusable, answer_json, discover

AT_ONCE = 16
"""Requests to one token endpoint at a time; the others wait for their turn."""

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

Reading = Literal["jwt", "introspection", "opaque"]


class KeySource(Protocol):
    """The keys of the server; oidc.OidcKeys is the one that fetches them."""

    async def find(self, kid: str | None, alg: str) -> VerifyKey: ...


class Introspector(Protocol):
    """Who tells what an opaque token says; introspection.Introspection is the one that asks the server."""

    async def ask(self, token: bytes, now: float) -> Introspected: ...


@dataclass(frozen=True, slots=True)
class ClientAccount:
    """Who we are at another server: one of `secret` (sent as HTTP Basic unless `in_body`) and `assertion`,
    which makes a new client assertion for each request."""

    client_id: str
    secret: str | None = field(default=None, repr=False)
    in_body: bool = False
    assertion: Callable[[], str] | None = None


class AuthorizationServer:
    """One server we are a client of (RFC 6749, RFC 7523). Safe for concurrent use.

    `endpoint` is its token endpoint, None: its metadata names it. `reading` says what its access tokens
    are: JWTs under `keys`, strings that `introspector` tells of, or strings that nobody here can read.
    No redirect is followed, an answer may take `deadline` seconds per step and 256 KiB; without `dev`
    only https URLs of other hosts are asked. `client` is shared and stays its owner's.
    """

    def __init__(
        self,
        issuer: str,
        account: ClientAccount,
        client: httpx2.AsyncClient,
        *,
        keys: KeySource,
        reading: Reading = "jwt",
        introspector: Introspector | None = None,
        endpoint: str | None = None,
        dev: bool = False,
        deadline: float = 5.0,
    ) -> None:
        self._issuer = issuer
        self._account = account
        self._client = client
        self._keys = keys
        self._reading = reading
        self._introspector = introspector
        self._configured = endpoint
        self._endpoint = endpoint
        self._dev = dev
        self._deadline = deadline
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def request(self, form: Mapping[str, str]) -> tuple[int, Any]:
        """Send a form as ourselves; the status and the JSON of the answer. Raises UpstreamFailed."""
        try:
            async with self._turns:
                return await self._send(form)
        except IssuerUnusable as error:
            reason = str(error).removeprefix("it ").removeprefix("its ")
            problem = f"its authorization server is unusable: {reason}"
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError, RuntimeError) as error:
            problem = f"its authorization server cannot be reached ({type(error).__name__})"
        # The endpoint may have moved: ask the metadata again next time.
        self._endpoint = self._configured
        raise UpstreamFailed(problem) from None

    async def read(self, token: str, now: float) -> ReadToken | None:
        """What an access token of it says, genuine; None where only the server can tell.

        Raises UpstreamFailed.
        """
        if self._reading == "jwt":
            return await self.read_grant(token, now)
        if self._introspector is None:
            return None
        try:
            said = await self._introspector.ask(token.encode("ascii"), now)
        except UnverifiableToken as error:
            raise UpstreamFailed(f"its authorization server's answer: {error.reason}") from None
        except InvalidToken as error:
            raise _refused(error) from None
        return ReadToken(said.claims, None)

    async def read_grant(self, token: str, now: float) -> ReadToken:
        """What a JWT of it says. Raises UpstreamFailed."""
        try:
            unverified = jose.split(token)
            if unverified.claims.get("iss") != self._issuer:
                raise InvalidToken("its iss is another")
            key = await self._keys.find(unverified.kid, unverified.alg)
            jose.verify(unverified, key)
        except UnverifiableToken as error:
            raise UpstreamFailed(f"its authorization server's answer: {error.reason}") from None
        except InvalidToken as error:
            raise _refused(error) from None
        return ReadToken(unverified.claims, unverified.typ)

    async def _send(self, form: Mapping[str, str]) -> tuple[int, Any]:
        endpoint = self._endpoint
        if endpoint is None:
            document = await discover(self._issuer, self._client, self._dev, self._deadline)
            endpoint = document.get("token_endpoint")
            if not isinstance(endpoint, str):
                raise IssuerUnusable("its discovery document has no token_endpoint")
            self._endpoint = endpoint
        headers, proof = self._authenticate()
        return await answer_json(
            self._client,
            "POST",
            endpoint,
            dev=self._dev,
            deadline=self._deadline,
            headers=headers,
            form={**form, **proof},
            accepted=(200, 400, 401, 403),
        )

    def _authenticate(self) -> tuple[dict[str, str], dict[str, str]]:
        """Headers and form parameters that prove us (RFC 6749 section 2.3.1, RFC 7523 section 2.2)."""
        account = self._account
        if account.assertion is not None:
            return {}, {
                "client_id": account.client_id,
                "client_assertion_type": ASSERTION_TYPE,
                "client_assertion": account.assertion(),
            }
        secret = account.secret or ""
        if account.in_body:
            return {}, {"client_id": account.client_id, "client_secret": secret}
        return {"authorization": basic_credentials(account.client_id, secret)}, {}


def _refused(error: InvalidToken) -> AnswerRefused:
    return AnswerRefused(
        "its authorization server answered with a token that is not genuine",
        {"member": "access_token", "expected": "a token of that server", "got": error.reason},
    )
