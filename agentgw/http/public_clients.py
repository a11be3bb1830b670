"""Clients without credentials, and those with a key in their own document, where they may come: for codes,
refresh tokens and device codes only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

from agentgw.core.certificate import ClientCertificate
from agentgw.core.hourly import HourlyBound
from agentgw.core.oauth_client import OAuthClient
from agentgw.errors import OAuthError
from agentgw.http.client_request import Applicant, Clients
from agentgw.sts.clients import AuthenticatedClient

_CREDENTIALS = ("client_secret", "client_assertion", "client_assertion_type")


class LoginClients(Protocol):
    """The clients that may send users to us. Raises OAuthError where one's own document cannot be had or
    used, and Unavailable."""

    async def find(self, client_id: str) -> OAuthClient | None: ...

    async def prove(self, form: Mapping[str, str]) -> OAuthClient | None:
        """The client with a document whose key made the form's client_assertion; None where that is of no
        such client. Raises OAuthError (401) where it is not genuine, too."""
        ...


UNPROVEN = HourlyBound(per_source=300, in_all=10_000)
"""Requests of clients that no operator knows which we keep: pushed ones, and those of devices."""


class HourlyCounts(Protocol):
    """Counts shared by all workers; the call blocks on the disk. Raises Unavailable."""

    def take(self, kind: str, source: str, bound: HourlyBound, now: float) -> int:
        """Count one more of a kind; 0, or the seconds to wait where the bound is reached."""
        ...


class Unproven:
    """Bounds what clients that no operator knows make us write; `clock` gives Unix seconds."""

    def __init__(self, counts: HourlyCounts, clock: Callable[[], float]) -> None:
        self._counts = counts
        self._clock = clock

    async def count(self, by: Applicant) -> None:
        """Count a request that will be kept. Raises OAuthError (429) where there were too many."""
        if not by.client.is_stranger:
            return
        wait = await asyncio.to_thread(
            self._counts.take, "unproven", by.source, UNPROVEN, self._clock()
        )
        if wait:
            raise OAuthError(
                "temporarily_unavailable",
                f"too many requests of clients that prove nothing: try again in {wait} seconds",
                status=429,
            )


class WithPublicClients:
    """Authenticates as `clients` does, and lets public clients in by their `client_id`.

    What they get has evidence `consent`: that a user let them in is all there is to it. A client that has
    credentials must show them; one that has a key in its document comes here with it, and nowhere else.
    `grants` are the grant_types they may come with, None where the endpoint has none.
    """

    def __init__(
        self, clients: Clients, public: LoginClients, grants: tuple[str, ...] | None = None
    ) -> None:
        self._clients = clients
        self._public = public
        self._grants = grants

    async def authenticate(
        self,
        authorization: str | None,
        form: Mapping[str, str],
        certificate: ClientCertificate | None,
    ) -> AuthenticatedClient:
        """The one client. Raises OAuthError or Unavailable."""
        client_id = form.get("client_id")
        bare = authorization is None and not any(name in form for name in _CREDENTIALS)
        here = self._grants is None or form.get("grant_type") in self._grants
        if authorization is None and here and "client_assertion" in form:
            proven = await self._public.prove(form)
            if proven is not None:
                how = ("private_key_jwt", proven.evidence, proven.client_id)
                return AuthenticatedClient(proven.agent, *how)
        if bare and here and client_id is not None:
            try:
                client = await self._public.find(client_id)
            except OAuthError as error:
                if error.error != "invalid_client_metadata":
                    raise
                raise OAuthError("invalid_client", error.description, status=401) from None
            if client is not None and client.public:
                return AuthenticatedClient(client.agent, "none", "consent", client.client_id)
        return await self._clients.authenticate(authorization, form, certificate)
