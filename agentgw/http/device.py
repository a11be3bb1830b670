"""The device flow (RFC 8628): a program without a browser asks, its user answers in one, wherever that is."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agentgw.core.authorize import resource_asked
from agentgw.core.canonical import b64url
from agentgw.core.device import (
    DEVICE_SECONDS,
    INTERVAL,
    Device,
    judge_answer,
    judge_poll,
    polled_again,
    user_code_of,
)
from agentgw.core.exchange_request import parse_scope
from agentgw.core.exchange_rules import ExchangeRules
from agentgw.core.login_grants import DeviceRequest
from agentgw.core.one_time import Kept
from agentgw.errors import OAuthError
from agentgw.http.client_request import METHODS, NO_STORE, ClientRequest, ClientRequests
from agentgw.http.public_clients import LoginClients, Unproven
from agentgw.sts.clients import AuthenticatedClient

DEVICE_PAGE = "/device"
DEVICES, USER_CODES, ANSWERS = "device", "user_code", "device_answer"
"""The kinds under which the two codes are kept, and what the user answered to the second."""
KEPT_SECONDS = 600
"""How long an answered code is remembered, so that its being used twice is seen."""


class Secrets(Protocol):
    """Where secrets are kept by hash; calls block on the disk. All raise Unavailable."""

    def put(self, kind: str, secret: str, payload: Mapping[str, Any], exp: int) -> None: ...

    def look(self, kind: str, secret: str, now: float) -> Kept | None: ...

    def take(self, kind: str, secret: str, now: float) -> Kept | None: ...

    def replace(
        self, kind: str, secret: str, old: Mapping[str, Any], new: Mapping[str, Any], now: float
    ) -> bool: ...


class DeviceFlow:
    """What the device meets: where it begins, and what its polls are told.

    `rules` gives what is in use now, `clock` Unix seconds.
    """

    def __init__(
        self,
        *,
        requests: ClientRequests,
        clients: LoginClients,
        kept: Secrets,
        rules: Callable[[], ExchangeRules],
        unproven: Unproven,
        clock: Callable[[], float],
    ) -> None:
        self._requests = requests
        self._clients = clients
        self._kept = kept
        self._rules = rules
        self._unproven = unproven
        self._clock = clock

    def routes(self) -> list[Route]:
        """The route of this face, to be mounted at the root."""
        return [Route("/oauth/device_authorization", self.begin, methods=METHODS)]

    async def begin(self, request: Request) -> Response:
        """Give a device its two codes (section 3.2)."""
        if not self._rules().let_in:
            return Response(status_code=404)
        return await self._requests.answer(request, self._begin)

    async def _begin(self, asked: ClientRequest) -> Response:
        client_id, rules = asked.by.client.id, self._rules()
        if await self._clients.find(client_id) is None:
            raise OAuthError("unauthorized_client", "users cannot sign in for this agent")
        parse_scope(asked.form.get("scope"))
        resource = resource_asked(asked.form.get("resource"), rules.issuer, rules.resources)
        await self._unproven.count(asked.by)
        device_code, now = b64url(secrets.token_bytes(32)), int(self._clock())
        user_code = user_code_of(device_code)
        until = now + DEVICE_SECONDS
        device = Device(client_id, resource, asked.form.get("scope"), until)
        exp = until + KEPT_SECONDS
        await asyncio.to_thread(self._kept.put, USER_CODES, user_code, device.payload(), exp)
        await asyncio.to_thread(self._kept.put, DEVICES, device_code, device.payload(), exp)
        page = rules.issuer + DEVICE_PAGE
        return JSONResponse(
            {
                "device_code": device_code,
                "user_code": user_code,
                "verification_uri": page,
                "verification_uri_complete": f"{page}?user_code={user_code}",
                "expires_in": DEVICE_SECONDS,
                "interval": INTERVAL,
            },
            headers={**NO_STORE, "Agentgw-Event-Id": asked.by.event_id},
        )

    async def login_of(self, asked: DeviceRequest, client: AuthenticatedClient) -> str:
        """The login that the user's answer began. Raises OAuthError as section 3.5 says, or Unavailable.

        A code that gave a token before is UsedTwice.
        """
        now, code = self._clock(), asked.device_code
        kept = await asyncio.to_thread(self._kept.look, DEVICES, code, now)
        device = judge_poll(kept, client.id, now)
        answer = await asyncio.to_thread(self._kept.look, ANSWERS, user_code_of(code), now)
        if answer is None:
            later, told = polled_again(device, now)
            await asyncio.to_thread(
                self._kept.replace, DEVICES, code, device.payload(), later.payload(), now
            )
            raise told
        taken = await asyncio.to_thread(self._kept.take, DEVICES, code, now)
        return judge_answer(answer.payload, taken)
