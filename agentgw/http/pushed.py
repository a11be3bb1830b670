"""`/oauth/par`: a client sends its authorization request ahead, and its user with no more than a name of it
(RFC 9126)."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agentgw.core.authorize import PARAMETERS, REQUEST_URN, SentBack, Shown, judge_request
from agentgw.core.canonical import b64url
from agentgw.core.exchange_rules import ExchangeRules
from agentgw.errors import OAuthError
from agentgw.http.authorize import PUSHED, Secrets
from agentgw.http.client_request import METHODS, NO_STORE, ClientRequest, ClientRequests, refuse
from agentgw.http.possession import Possession
from agentgw.http.public_clients import LoginClients, Unproven

PUSHED_SECONDS = 600
"""Long enough to sign in on the way (RFC 9126 section 2.2 leaves it to us)."""


class PushedRequests:
    """The endpoint for pushed requests. `rules` and `possession` give what is in use now, `clock` Unix
    seconds."""

    def __init__(
        self,
        *,
        requests: ClientRequests,
        clients: LoginClients,
        kept: Secrets,
        rules: Callable[[], ExchangeRules],
        possession: Callable[[], Possession],
        unproven: Unproven,
        clock: Callable[[], float],
    ) -> None:
        self._requests = requests
        self._clients = clients
        self._kept = kept
        self._rules = rules
        self._possession = possession
        self._unproven = unproven
        self._clock = clock

    def routes(self) -> list[Route]:
        """The route of this face, to be mounted at the root."""
        return [Route("/oauth/par", self.push, methods=METHODS)]

    async def push(self, request: Request) -> Response:
        """Judge the request as the authorization endpoint would, and keep it for ten minutes."""
        if not self._rules().let_in:
            return Response(status_code=404)
        return await self._requests.answer(request, self._push)

    async def _push(self, asked: ClientRequest) -> Response:
        if "request_uri" in asked.form:
            raise OAuthError("invalid_request", "a pushed request names no other")
        client_id = asked.by.client.id
        try:
            params = {**await self._bound(asked), "client_id": client_id}
        except OAuthError as refusal:
            if refusal.error != "use_dpop_nonce":
                raise
            return refuse(refusal, asked.by, self._possession().nonce_header(self._clock()))
        client = await self._clients.find(client_id)
        if client is None:
            raise OAuthError("unauthorized_client", "users cannot sign in for this agent")
        rules = self._rules()
        try:
            judge_request(params, client, rules.issuer, rules.resources)
        except Shown as error:
            raise OAuthError("invalid_request", error.reason) from None
        except SentBack as error:
            raise OAuthError(error.error, error.description) from None
        await self._unproven.count(asked.by)
        key, now = b64url(secrets.token_bytes(32)), int(self._clock())
        used = {name: value for name, value in params.items() if name in PARAMETERS}
        await asyncio.to_thread(self._kept.put, PUSHED, key, used, now + PUSHED_SECONDS)
        return JSONResponse(
            {"request_uri": REQUEST_URN + key, "expires_in": PUSHED_SECONDS},
            201,
            {**NO_STORE, "Agentgw-Event-Id": asked.by.event_id},
        )

    async def _bound(self, asked: ClientRequest) -> dict[str, str]:
        """The parameters, with the key of a DPoP proof that came along as `dpop_jkt`: it binds the code
        as if it had been named there (RFC 9449 section 10.1). Raises OAuthError or Unavailable."""
        params = dict(asked.form)
        proven = (await self._possession().presented(asked.scope, self._clock())).jkt
        if proven is not None and params.setdefault("dpop_jkt", proven) != proven:
            raise OAuthError("invalid_request", "dpop_jkt is not the key of the DPoP proof")
        return params
