"""How a user connects an account at a tool server: the way to its authorization server, and back.

Whoever calls has seen to it that the browser's user is the one whose account it will be.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from agentgw.core import upstream_oauth as rule
from agentgw.core.canonical import b64url
from agentgw.core.connected import Account, Place, content_of
from agentgw.core.one_time import Kept
from agentgw.core.principal import Subject
from agentgw.core.upstream_oauth import Endpoints
from agentgw.errors import UpstreamFailed
from agentgw.upstream.oauth_client import OAuthClient
from agentgw.upstream.user_oauth import Vault, read

STATE = "connect-state"
LIFE = 600
"""Seconds a user has for signing in and agreeing at the other side."""


class OneTime(Protocol):
    """Secrets that work once; see registry/one_time.py."""

    def put(self, kind: str, secret: str, payload: Mapping[str, Any], exp: int) -> None: ...
    def take(self, kind: str, secret: str, now: float) -> Kept | None: ...


class Offer(NamedTuple):
    """What a user would agree to: scopes of an account at `issuer`, for the server at `resource`."""

    issuer: str
    resource: str
    scopes: frozenset[str]

    @property
    def origin(self) -> str:
        """The origin of the authorization server's issuer."""
        parts = urlsplit(self.issuer)
        return f"{parts.scheme}://{parts.netloc}"


class Departure(NamedTuple):
    """Where to send the browser, and the secret that its cookie must bring back."""

    url: str
    cookie: str


@dataclass(frozen=True, slots=True)
class Connected:
    """What was connected, for page and record."""

    server: str
    facts: Mapping[str, Any]


class Connections:
    """Connects accounts at one tool server.

    `redirect_uri` is our callback. `clock` is Unix seconds, `random` gives so many random bytes.
    """

    def __init__(
        self,
        server: str,
        client: OAuthClient,
        vault: Vault,
        one_time: OneTime,
        redirect_uri: str,
        scope: str | None,
        *,
        clock: Callable[[], float],
        random: Callable[[int], bytes],
    ) -> None:
        self._server = server
        self._client = client
        self._vault = vault
        self._one_time = one_time
        self._redirect_uri = redirect_uri
        self._scope = scope
        self._clock = clock
        self._random = random

    async def offer(self, user: Subject, demanded: frozenset[str]) -> Offer:
        """What would be asked for, as the server's metadata stands now. Raises UpstreamFailed."""
        found = await self._client.find(anew=True)
        place = self._place(user, found.endpoints.issuer)
        held = await read(self._vault, place)
        scopes = rule.scopes_to_ask(
            frozenset() if held is None else held.scopes,
            demanded | found.challenge.scopes,
            self._scope,
            found.resource.scopes,
        )
        return Offer(found.endpoints.issuer, self._client.resource, scopes)

    async def depart(self, user: Subject, offer: Offer) -> Departure:
        """Send the user to the authorization server that was shown. Raises UpstreamFailed."""
        endpoints = (await self._client.find()).endpoints
        if endpoints.issuer != offer.issuer:
            raise UpstreamFailed("its authorization server is another than a moment ago")
        state, verifier, cookie = (b64url(self._random(32)) for _ in range(3))
        payload = {
            "iss": user.iss,
            "sub": user.sub,
            "server": self._server,
            "resource": self._client.resource,
            "client_id": self._client.client_id,
            "endpoints": [endpoints.issuer, endpoints.authorize, endpoints.token],
            "says_iss": endpoints.says_iss,
            "scopes": sorted(offer.scopes),
            "verifier": verifier,
            "cookie": _hash(cookie),
        }
        exp = int(self._clock()) + LIFE
        await asyncio.to_thread(self._one_time.put, STATE, state, payload, exp)
        challenge = b64url(hashlib.sha256(verifier.encode("ascii")).digest())
        url = rule.authorization_url(
            endpoints,
            client_id=self._client.client_id,
            redirect_uri=self._redirect_uri,
            state=state,
            code_challenge=challenge,
            resource=self._client.resource,
            scopes=offer.scopes,
        )
        return Departure(url, cookie)

    async def arrive(self, user: Subject, state: Mapping[str, Any], query: str) -> Connected:
        """Redeem the code of an answer and keep what comes of it. Raises UpstreamFailed or Unavailable.

        `state` is what its state stood for, taken and checked by `check_state`; everything about the
        authorization server is as it was at departure, whatever the server's metadata says by now.
        """
        if (state["resource"], state["client_id"]) != (
            self._client.resource,
            self._client.client_id,
        ):
            raise UpstreamFailed("the server's configuration changed meanwhile")
        issuer, authorize, token = state["endpoints"]
        endpoints = Endpoints(issuer, authorize, token, state["says_iss"], False)
        code = rule.code_of(query, issuer, endpoints.says_iss)
        now = self._clock()
        tokens = await self._client.redeem(
            endpoints, code, self._redirect_uri, state["verifier"], now
        )
        asked = frozenset(state["scopes"])
        content = content_of(tokens, self._client.client_id, asked)
        await asyncio.to_thread(self._vault.put, self._place(user, issuer), content)
        facts = rule.facts_of(issuer, self._client.resource, content["scopes"], tokens.exp)
        return Connected(self._server, facts)

    async def leave(self, place: Place, account: Account) -> None:
        """Have an account that was disconnected ended at its own authorization server. Raises UpstreamFailed.

        It is told to nobody else, whatever the server's metadata names by now.
        """
        endpoints = (await self._client.find()).endpoints
        if (endpoints.issuer, self._client.client_id) != (place.issuer, account.client_id):
            raise UpstreamFailed("the account is of another authorization server or client")
        await self._client.give_up(endpoints, account.refresh, account.access)

    def _place(self, user: Subject, issuer: str) -> Place:
        return Place(user.iss, user.sub, issuer, self._server, self._client.resource)


def check_state(
    state: Mapping[str, Any], user: Subject, server: str, cookie: str | None
) -> str | None:
    """Why an answer that came to the callback of `server` is not for that, this browser and user; None
    where it is."""
    if cookie is None or not hmac.compare_digest(_hash(cookie), state["cookie"]):
        return "another_browser"
    if (state["iss"], state["sub"]) != (user.iss, user.sub):
        return "another_user"
    if state["server"] != server:
        return "another_server"
    return None


def _hash(secret: str) -> str:
    return b64url(hashlib.sha256(secret.encode("utf-8", "replace")).digest())
