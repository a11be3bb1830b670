"""The grants behind a login at the token endpoint: codes and refresh tokens are found, used up, renewed."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol

from agentgw.core.canonical import b64url
from agentgw.core.exchange_rules import Exchanged
from agentgw.core.login_grants import (
    CodeRequest,
    DeviceRequest,
    LoginRefused,
    LoginRequest,
    RefreshRequest,
    RefreshToken,
    UsedTwice,
    judge_code,
    judge_refresh,
)
from agentgw.core.one_time import Kept
from agentgw.core.possession import Presented
from agentgw.core.principal import Inbound, Issued
from agentgw.core.revocation import Revoked
from agentgw.errors import OAuthError
from agentgw.http.client_request import Applicant
from agentgw.http.issuing import Issuing
from agentgw.sts.clients import AuthenticatedClient

CODES = "code"
"""The kind under which authorization codes are kept (registry/one_time.py)."""


class Codes(Protocol):
    """Where codes are kept by hash; its call blocks on the disk. Raises Unavailable."""

    def take(self, kind: str, secret: str, now: float) -> Kept | None: ...


class RefreshTokens(Protocol):
    """Where refresh tokens are kept by hash; calls block on the disk. All raise Unavailable."""

    def put(self, secret: str, token: RefreshToken) -> None: ...

    def look(self, secret: str) -> RefreshToken | None: ...

    def rotate(self, secret: str, new_secret: str, token: RefreshToken) -> bool: ...


class Devices(Protocol):
    """What users answered to devices. Raises OAuthError (`authorization_pending` and the like)."""

    async def login_of(self, asked: DeviceRequest, client: AuthenticatedClient) -> str: ...


class LoginGrants:
    """Gives tokens by logins.

    `login(jti)` is the ledger's entry of one. `today` gives it for who its user is by now, or raises
    OAuthError or Unavailable. `end(key)` takes a login or sign-in back, and all that came of it. `life`
    gives how long a refresh token may lie unused, in seconds, and `clock` Unix seconds.
    """

    def __init__(
        self,
        *,
        issuing: Issuing,
        codes: Codes,
        tokens: RefreshTokens,
        devices: Devices,
        login: Callable[[str], Awaitable[Issued | None]],
        today: Callable[[Issued], Awaitable[Issued]],
        end: Callable[[str], Awaitable[None]],
        revoked: Revoked,
        issuer: str,
        life: Callable[[], int],
        clock: Callable[[], float],
    ) -> None:
        self._issuing = issuing
        self._codes = codes
        self._tokens = tokens
        self._devices = devices
        self._login = login
        self._today = today
        self._end = end
        self._revoked = revoked
        self._issuer = issuer
        self._life = life
        self._clock = clock

    async def grant(self, asked: LoginRequest, by: Applicant, presented: Presented) -> Exchanged:
        """A token by a login, and the refresh token for the next one. Raises OAuthError or Unavailable.

        What was used before ends its login. The refresh token that was shown is used up last of all, so
        that a client whom we could not answer may try again.
        """
        # A device that waits is no event: nothing is decided, and it asks every five seconds.
        approved = None
        if isinstance(asked, DeviceRequest):
            try:
                approved = await self._devices.login_of(asked, by.client)
            except UsedTwice as refusal:
                await self._looked_up(refusal)
                await self._issuing.refuse(by, refusal, asked, login=refusal.entry)
                raise
        login: Issued | None = None

        async def find() -> Issued | None:
            nonlocal login
            jti = approved or await self._used_up(asked, by.client, presented)
            login = await self._login(jti)
            if self._revoked.has_token(Inbound(self._issuer, jti, "")):
                raise OAuthError(
                    "invalid_grant", "the login was ended: have the user sign in again"
                )
            if login is not None:
                login = await self._of_today(login)
            return login

        made = await self._issuing.by_login(asked, by, presented, find)
        assert login is not None
        try:
            fresh = await self._renew(asked, login, by.client, presented)
        except UsedTwice as refusal:
            await self._looked_up(refusal)
            await self._issuing.refuse(by, refusal, asked, login=login)
            raise
        return replace(made, answer={**made.answer, "refresh_token": fresh})

    async def _of_today(self, login: Issued) -> Issued:
        """The login for who its user is by now, by the identity provider."""
        try:
            return await self._today(login)
        except LoginRefused as refusal:
            await self._looked_up(refusal)
            raise

    async def _used_up(
        self, asked: LoginRequest, client: AuthenticatedClient, presented: Presented
    ) -> str:
        """The login that a code or refresh token stands for; the code is used up by looking."""
        now = self._clock()
        try:
            if isinstance(asked, CodeRequest):
                kept = await asyncio.to_thread(self._codes.take, CODES, asked.code, now)
                return judge_code(asked, kept, client.id, presented, now).login
            if isinstance(asked, RefreshRequest):
                found = await asyncio.to_thread(self._tokens.look, asked.token)
                return judge_refresh(found, client.id, presented, now).login
        except LoginRefused as refusal:
            await self._looked_up(refusal)
            raise
        raise TypeError("a device's grant is found by its poll")

    async def _looked_up(self, refusal: LoginRefused) -> None:
        """Find the login of a refusal for the record, and end it where somebody else must have it."""
        refusal.entry = await self._login(refusal.login)
        if refusal.ends is not None:
            await self._end(refusal.ends)

    async def _renew(
        self, asked: LoginRequest, login: Issued, client: AuthenticatedClient, presented: Presented
    ) -> str:
        secret = b64url(secrets.token_bytes(32))
        exp = min(login.exp, int(self._clock()) + self._life())
        # A client that authenticates is bound by that already (RFC 9449 section 5).
        jkt = presented.jkt if client.method == "none" else None
        token = RefreshToken(login.jti, client.id, exp, jkt=jkt)
        if isinstance(asked, RefreshRequest):
            if not await asyncio.to_thread(self._tokens.rotate, asked.token, secret, token):
                raise UsedTwice("refresh_token", login.jti)
        else:
            await asyncio.to_thread(self._tokens.put, secret, token)
        return secret
