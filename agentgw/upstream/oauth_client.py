"""We as OAuth client of a tool server's authorization server: finding it, and asking it for tokens."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import quote

from agentgw.core import upstream_oauth as rule
from agentgw.core.upstream_oauth import Challenge, Endpoints, Resource, Tokens
from agentgw.errors import UpstreamFailed
from agentgw.upstream.web import Web

KNOWN_FOR = 600.0
"""Seconds a server's metadata counts: for so long a change of its authorization server goes unnoticed."""

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass(frozen=True, slots=True)
class OwnRegistration:
    """Who we are at one issuer. At most one of `secret` (HTTP Basic unless `in_body`) and `assertion`, which
    makes a new client assertion for an audience; neither: a public client. `by_document` says that the
    client_id is the URL of our metadata, which the server must take."""

    client_id: str
    secret: str | None = field(default=None, repr=False)
    in_body: bool = False
    assertion: Callable[[str], str] | None = None
    by_document: bool = False


class Found(NamedTuple):
    """A server's metadata and that of its authorization server, and until when they count (monotonic)."""

    resource: Resource
    endpoints: Endpoints
    challenge: Challenge
    until: float


class OAuthClient:
    """Implements the client side for one tool server at `url`, whose resource identifier is `resource`.

    `issuer` is the only authorization server to use, None: the first that the server names. `clock` is
    monotonic seconds. Safe for concurrent use; discovery runs once for all who wait.
    """

    def __init__(
        self,
        url: str,
        resource: str,
        registration: OwnRegistration,
        web: Web,
        *,
        issuer: str | None,
        clock: Callable[[], float],
    ) -> None:
        self.resource = resource
        self.client_id = registration.client_id
        self._url = url
        self._registration = registration
        self._web = web
        self._issuer = issuer
        self._clock = clock
        self._found: Found | None = None
        self._problem: str | None = None
        self._answers = 0
        self._finding = asyncio.Lock()

    @property
    def known(self) -> Found | None:
        """What `find` brought lately, while it counts."""
        found = self._found
        return None if found is None or self._clock() >= found.until else found

    async def find(self, *, anew: bool = False) -> Found:
        """Where to connect, as the server says now or said lately. Raises UpstreamFailed.

        Who asks anew holds up nobody whom the last answer will do, and who had to wait takes the answer, or
        the failure, of whoever asked in the meantime: else one browser that reloads a page, or a server
        that hangs, would have all users wait for one another.
        """
        known, answers = self.known, self._answers
        if known is not None and not anew:
            return known
        async with self._finding:
            if self._answers == answers:
                try:
                    self._found, self._problem = await self._discover(), None
                except UpstreamFailed as error:
                    self._problem = error.reason
                self._answers += 1
            if self._found is None or self._problem is not None:
                raise UpstreamFailed(self._problem or "it was not found")
            return self._found

    async def redeem(
        self, endpoints: Endpoints, code: str, redirect_uri: str, verifier: str, now: float
    ) -> Tokens:
        """The tokens of a code. Raises GrantSpent or UpstreamFailed."""
        form = rule.code_request(code, redirect_uri, verifier, self.resource)
        return await self._ask(endpoints, form, now)

    async def refresh(self, endpoints: Endpoints, refresh_token: str, now: float) -> Tokens:
        """New tokens for a refresh token. Raises GrantSpent or UpstreamFailed."""
        form = rule.refresh_request(refresh_token, self.resource)
        return await self._ask(endpoints, form, now)

    async def give_up(self, endpoints: Endpoints, refresh: str | None, access: str) -> None:
        """Have what was granted ended there, by its refresh token if there is one (RFC 7009).

        Raises UpstreamFailed, also where it has no endpoint for that.
        """
        if endpoints.revoke is None:
            raise UpstreamFailed("its authorization server has no revocation endpoint")
        form = (
            rule.revoke_request(access, "access_token")
            if refresh is None
            else rule.revoke_request(refresh, "refresh_token")
        )
        headers, proof = self._authenticate(endpoints.issuer)
        answer = await self._web.post_form(endpoints.revoke, {**form, **proof}, headers)
        if answer.status != 200:
            raise UpstreamFailed(
                f"its authorization server refused to revoke, with status {answer.status}"
            )

    async def _discover(self) -> Found:
        challenge = rule.read_challenge((await self._web.knock(self._url)).challenge)
        resource = await self._resource(challenge)
        issuer = rule.issuer_of(resource, self._issuer)
        endpoints = await self._endpoints(issuer)
        if self._registration.by_document and not endpoints.takes_documents:
            raise UpstreamFailed(
                "its authorization server takes no client metadata documents: register the gateway "
                "there, and set auth.oauth.client_id and issuer"
            )
        return Found(resource, endpoints, challenge, self._clock() + KNOWN_FOR)

    async def _resource(self, challenge: Challenge) -> Resource:
        for url in rule.resource_metadata_urls(self.resource, challenge):
            answer = await self._web.get(url)
            if answer.status == 200:
                return rule.read_resource(answer.document, self.resource)
            if url == challenge.metadata:
                break  # it said where, and guessing on would let another path answer for it
        raise UpstreamFailed("it has no metadata that names its authorization server (RFC 9728)")

    async def _endpoints(self, issuer: str) -> Endpoints:
        for url in rule.server_metadata_urls(issuer):
            answer = await self._web.get(url)
            if answer.status == 200 and isinstance(answer.document, dict):
                return rule.read_endpoints(answer.document, issuer)
        raise UpstreamFailed("its authorization server has no metadata (RFC 8414)")

    async def _ask(self, endpoints: Endpoints, form: Mapping[str, str], now: float) -> Tokens:
        headers, proof = self._authenticate(endpoints.issuer)
        answer = await self._web.post_form(endpoints.token, {**form, **proof}, headers)
        return rule.read_tokens(answer.status, answer.document, now)

    def _authenticate(self, issuer: str) -> tuple[dict[str, str], dict[str, Any]]:
        """Headers and form parameters that prove us (RFC 6749 section 2.3.1, RFC 7523 section 2.2)."""
        own = self._registration
        named = {"client_id": own.client_id}
        if own.assertion is not None:
            assertion = own.assertion(issuer)
            return {}, {
                **named,
                "client_assertion_type": ASSERTION_TYPE,
                "client_assertion": assertion,
            }
        if own.secret is None:
            return {}, named
        if own.in_body:
            return {}, {**named, "client_secret": own.secret}
        pair = f"{quote(own.client_id, safe='')}:{quote(own.secret, safe='')}"
        return {"authorization": "Basic " + b64encode(pair.encode()).decode("ascii")}, {}
