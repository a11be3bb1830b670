"""`POST /oauth/revoke`: a client takes back a token, and with it all that came of it (RFC 7009)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agentgw.core.exchange import ExchangeRules
from agentgw.core.exchange_request import TOKEN_LIMIT
from agentgw.core.login_grants import RefreshToken
from agentgw.core.principal import Issued
from agentgw.core.recorder import Recorder
from agentgw.core.revocation import token_key
from agentgw.errors import InvalidToken, OAuthError, Unavailable, UnverifiableToken
from agentgw.http.client_request import METHODS, NO_STORE, ClientRequest, ClientRequests
from agentgw.identity import Verified
from agentgw.sts.clients import AuthenticatedClient


class Verifier(Protocol):
    """Tells what a token says."""

    async def verify_subject_token(self, token: bytes, now: float) -> Verified:
        """Raises InvalidToken, or UnverifiableToken where that cannot be known now."""

    def verify_call_token(self, token: bytes, now: float) -> Mapping[str, object]:
        """The claims of a per-call token of ours. Raises InvalidToken."""


class RevocationStore(Protocol):
    """Where revocations are kept; its call blocks on the disk. Raises Unavailable."""

    def revoke_token(self, key: str, until: int) -> int: ...


class RefreshTokens(Protocol):
    """Where refresh tokens are kept by hash; its call blocks on the disk. Raises Unavailable."""

    def look(self, secret: str) -> RefreshToken | None: ...


class RevocationEndpoint:
    """The revocation endpoint. A refresh token is taken back with its whole login (RFC 7009 section 2.1).

    `login(jti)` is the ledger's entry of a login. `verifier` and `rules` give what is in use now. `refresh`
    makes this process take on what the store holds. `clock` gives Unix seconds.
    """

    def __init__(
        self,
        *,
        requests: ClientRequests,
        verifier: Callable[[], Verifier],
        store: RevocationStore,
        refresh_tokens: RefreshTokens,
        login: Callable[[str], Awaitable[Issued | None]],
        refresh: Callable[[], Awaitable[None]],
        rules: Callable[[], ExchangeRules],
        recorder: Recorder,
        clock: Callable[[], float],
    ) -> None:
        self._requests = requests
        self._verifier = verifier
        self._store = store
        self._refresh_tokens = refresh_tokens
        self._login = login
        self._refresh = refresh
        self._rules = rules
        self._recorder = recorder
        self._clock = clock

    def routes(self) -> list[Route]:
        """The route of this face, to be mounted at the root."""
        return [Route("/oauth/revoke", self.revoke, methods=METHODS)]

    async def revoke(self, request: Request) -> Response:
        """Revoke what the client presented; 200 also where there was nothing to revoke."""
        return await self._requests.answer(request, self._decide)

    async def _decide(self, asked: ClientRequest) -> Response:
        text = token_of(asked.form)
        found = await asyncio.to_thread(self._refresh_tokens.look, text)
        if found is not None:
            return await self._end_login(asked, found)
        token = text.encode()
        try:
            verified = await self._verifier().verify_subject_token(token, self._clock())
        except UnverifiableToken:
            raise Unavailable("the keys of the token's issuer cannot be had") from None
        except InvalidToken:
            return await self._nothing_to_revoke(asked, token)
        if not await self._may_revoke(asked.by.client, verified):
            refusal = OAuthError(
                "unauthorized_client", "this token was neither issued nor handed to this client"
            )
            await self._record(asked, verified, refusal=refusal)
            raise refusal
        key = token_key(verified.inbound, self._rules().issuer)
        heirs = await asyncio.to_thread(self._store.revoke_token, key, verified.exp)
        await self._refresh()
        await self._record(asked, verified, {"effect": "revoked", "descendants": heirs})
        return self._done(asked)

    async def _nothing_to_revoke(self, asked: ClientRequest, token: bytes) -> Response:
        """An unknown, expired or revoked token is gone already (RFC 7009 section 2.2)."""
        try:
            self._verifier().verify_call_token(token, self._clock())
        except InvalidToken:
            await self._record(asked, None, {"effect": "none"})
            return self._done(asked)
        refusal = OAuthError(
            "unsupported_token_type",
            "a token for one call is checked by its tool server alone, and ends within two minutes",
        )
        await self._record(asked, None, refusal=refusal)
        raise refusal

    async def _end_login(self, asked: ClientRequest, found: RefreshToken) -> Response:
        login = await self._login(found.login)
        if found.client_id != asked.by.client.id:
            refusal = OAuthError(
                "unauthorized_client", "this refresh token was issued to another client"
            )
            await self._record(asked, None, refusal=refusal, login=login)
            raise refusal
        heirs = await asyncio.to_thread(self._store.revoke_token, found.login, found.exp)
        await self._refresh()
        facts = {"login": found.login, "effect": "revoked", "descendants": heirs}
        await self._record(asked, None, facts, login=login)
        return self._done(asked)

    async def _may_revoke(self, client: AuthenticatedClient, verified: Verified) -> bool:
        agent = self._rules().agents.get(client.agent)
        if agent is None:
            return False
        if client.is_stranger:
            # Anybody can be one: it may end what was issued to that very client.
            parent = None if verified.issued is None else verified.issued.parent
            login = None if parent is None else await self._login(parent)
            return login is not None and (login.kind, login.presenter) == ("login", client.id)
        theirs = {verified.presenter, verified.chain[0].id, verified.may_act}
        started = (verified.issuer, verified.client_id) in agent.subject_from
        return agent.id in theirs or started

    async def _record(
        self,
        asked: ClientRequest,
        verified: Verified | None,
        facts: Mapping[str, object] | None = None,
        refusal: OAuthError | None = None,
        login: Issued | None = None,
    ) -> None:
        about = verified or login
        if about is None and asked.by.client.is_stranger:
            return  # it proves nothing, and showed nothing of ours
        agent = self._rules().agents.get(asked.by.client.agent)
        detail: dict[str, object] = {"client_auth": asked.by.client.method, **(facts or {})}
        if refusal is not None:
            detail["error"] = refusal.description
        await self._recorder.record(
            "oauth/revoke",
            event_id=asked.by.event_id,
            txn=None if about is None else about.txn,
            subject=None if about is None else about.subject,
            chain=() if about is None else about.chain,
            presenter=asked.by.client.agent if agent is None else agent.id,
            client=asked.by.user_agent,
            source=asked.by.source,
            inbound=None if verified is None else verified.inbound,
            reason=None if refusal is None else refusal.error,
            detail=detail,
        )

    def _done(self, asked: ClientRequest) -> Response:
        return Response(headers={**NO_STORE, "Agentgw-Event-Id": asked.by.event_id})


def token_of(form: Mapping[str, str]) -> str:
    """The `token` parameter (RFC 7009 section 2.1); a hint about its type changes nothing."""
    token = form.get("token")
    if token is None:
        raise OAuthError("invalid_request", "token is missing")
    if len(token) > TOKEN_LIMIT:
        raise OAuthError("invalid_request", "the token is too large")
    return token
