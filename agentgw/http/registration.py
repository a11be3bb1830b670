"""`POST /oauth/register`: clients that introduce themselves (RFC 7591), where the operator lets them."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable
from typing import Any, Protocol

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agentgw.core.client_metadata import ClientMetadata, WrongMetadata, read_registration
from agentgw.core.hourly import HourlyBound
from agentgw.core.recorder import Recorder
from agentgw.errors import Unavailable
from agentgw.http.client_request import METHODS, NO_STORE
from agentgw.http.public_clients import HourlyCounts
from agentgw.http.request import CountRefusal, Networks, source_of, user_agent_of

BODY_LIMIT = 16 * 1024
BODY_DEADLINE = 10.0
REGISTRATIONS = HourlyBound(per_source=20, in_all=500)


class Registry(Protocol):
    """Where registered clients are kept. Raises Unavailable."""

    @property
    def agent(self) -> str | None:
        """The agent that registered clients are, None where nobody may register."""

    async def register(self, client_id: str, metadata: ClientMetadata) -> None: ...


class RegistrationEndpoint:
    """The registration endpoint: a random `client_id` for a public client, and never a secret.

    How many may register is bounded per source and in all, by `counts`. `clock` gives Unix seconds.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        counts: HourlyCounts,
        recorder: Recorder,
        clock: Callable[[], float],
        refused: CountRefusal,
        trusted_proxies: Networks = (),
    ) -> None:
        self._registry = registry
        self._recorder = recorder
        self._clock = clock
        self._refused = refused
        self._trusted_proxies = trusted_proxies
        self._counts = counts

    def routes(self) -> list[Route]:
        """The route of this face, to be mounted at the root."""
        return [Route("/oauth/register", self.register, methods=METHODS)]

    async def register(self, request: Request) -> Response:
        """Keep the client that a request describes. Refusals as in RFC 7591 section 3.2.2."""
        agent = self._registry.agent
        if agent is None:
            return _answer(404, {"error": "not_found", "error_description": "nobody may register"})
        if request.method != "POST":
            wrong = {"error": "invalid_request", "error_description": "send a POST"}
            return _answer(405, wrong, {"Allow": "POST"})
        source = source_of(request.scope, self._trusted_proxies) or ""
        try:
            metadata = read_registration(await _document(request))
        except WrongMetadata as error:
            self._refused(source, "/oauth/register")
            return _answer(400, {"error": error.error, "error_description": str(error)})
        counted = ("registration", source, REGISTRATIONS, self._clock())
        try:
            if wait := await asyncio.to_thread(self._counts.take, *counted):
                self._refused(source, "/oauth/register")
                many = "too many registrations"
                body = {"error": "temporarily_unavailable", "error_description": many}
                return _answer(429, body, {"Retry-After": str(wait)})
            return await self._keep(agent, metadata, source, request)
        except Unavailable:
            description = "nothing was done: try again"
            body = {"error": "temporarily_unavailable", "error_description": description}
            return _answer(503, body, {"Retry-After": "1"})

    async def _keep(
        self, agent: str, metadata: ClientMetadata, source: str, request: Request
    ) -> Response:
        client_id, event_id = f"dyn-{secrets.token_urlsafe(18)}", self._recorder.new_id()
        now = self._clock()
        await self._recorder.record(
            "oauth/register",
            event_id=event_id,
            client=user_agent_of(request.scope),
            source=source,
            name=client_id,
            detail={"agent": agent, "redirect_uris": list(metadata.redirect_uris)},
        )
        await self._registry.register(client_id, metadata)
        made = {
            "client_id": client_id,
            "client_id_issued_at": int(now),
            "client_name": metadata.name,
            "redirect_uris": list(metadata.redirect_uris),
            "token_endpoint_auth_method": "none",
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
        }
        return _answer(201, made, {"Agentgw-Event-Id": event_id})


async def _document(request: Request) -> Any:
    kinds = request.headers.getlist("content-type")
    if len(kinds) != 1 or kinds[0].partition(";")[0].strip().lower() != "application/json":
        raise _wrong("send the metadata as application/json")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_DEADLINE):
            async for chunk in request.stream():
                body += chunk
                if len(body) > BODY_LIMIT:
                    raise _wrong(f"the metadata is larger than {BODY_LIMIT} bytes")
    except (TimeoutError, ClientDisconnect):
        raise _wrong("the metadata did not arrive") from None
    try:
        return json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise _wrong("the metadata is no JSON") from None


def _wrong(reason: str) -> WrongMetadata:
    return WrongMetadata("invalid_client_metadata", reason)


def _answer(
    status: int, body: dict[str, Any], headers: dict[str, str] | None = None
) -> JSONResponse:
    return JSONResponse(body, status, {**NO_STORE, **(headers or {})})
