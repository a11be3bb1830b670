"""A form posted by an authenticated client: read, authenticated, decided, refused (RFC 6749 section 5.2)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from agentgw.core.certificate import ClientCertificate
from agentgw.core.source import one_source
from agentgw.errors import OAuthError, Unavailable
from agentgw.http.form import read_form
from agentgw.http.places import Places
from agentgw.http.request import (
    CountRefusal,
    Networks,
    RefusedRequest,
    Scope,
    source_of,
    user_agent_of,
)
from agentgw.sts.clients import AuthenticatedClient

NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


class Clients(Protocol):
    """Tells which agent a request comes from. Raises OAuthError or Unavailable."""

    async def authenticate(
        self,
        authorization: str | None,
        form: Mapping[str, str],
        certificate: ClientCertificate | None,
    ) -> AuthenticatedClient: ...


@dataclass(frozen=True, slots=True)
class Applicant:
    """Who asks, proven, and what the record says of their way in."""

    client: AuthenticatedClient
    event_id: str
    source: str
    user_agent: str | None


@dataclass(frozen=True, slots=True)
class ClientRequest:
    """What an authenticated client sent: its form, and the ASGI scope it came in."""

    form: Mapping[str, str]
    by: Applicant
    scope: Scope
    accept: str


Decide = Callable[[ClientRequest], Awaitable[Response]]


class ClientRequests:
    """Takes forms of authenticated clients, `max_in_flight` at a time.

    Clients that prove nothing have as many places of their own, of which one source may hold a quarter:
    whoever says a public client's name keeps neither the agents nor the other users waiting.
    `certificate_of` gives the client's TLS certificate. `refused` is told of each failure of a client that
    proved nothing, with the source that the `trusted_proxies` say of those behind them; `new_id` makes
    UUIDv7s.
    """

    def __init__(
        self,
        clients: Clients,
        new_id: Callable[[], str],
        refused: CountRefusal = lambda source, at, claimed=None: None,
        trusted_proxies: Networks = (),
        certificate_of: Callable[[Scope], ClientCertificate | None] = lambda scope: None,
        max_in_flight: int = 64,
    ) -> None:
        self._clients = clients
        self._new_id = new_id
        self._refused = refused
        self._trusted_proxies = trusted_proxies
        self._certificate_of = certificate_of
        self._proven = Places(max_in_flight, max_in_flight)
        self._unproven = Places(max_in_flight, -(-max_in_flight // 4))

    async def answer(self, request: Request, decide: Decide) -> Response:
        """Let `decide` answer the request, or refuse it in the words of RFC 6749."""
        if request.method != "POST":
            wrong = OAuthError("invalid_request", "send a POST with a form", status=405)
            return refuse(wrong, None, {"Allow": "POST"})
        source = source_of(request.scope, self._trusted_proxies) or ""
        by: Applicant | None = None
        try:
            form = await read_form(request)
            client = await self._authenticate(request, form)
            user_agent = user_agent_of(request.scope)
            by = Applicant(client, self._new_id(), source, user_agent)
            accept = request.headers.get("accept", "").lower()
            return await self._in_turn(ClientRequest(form, by, request.scope, accept), decide)
        except OAuthError as refusal:
            if by is None or by.client.is_stranger:
                self._refused(source, request.scope["path"], refusal.claimed)
            return refuse(refusal, by, {"Retry-After": "30"} if refusal.status == 503 else None)
        except Unavailable:
            # Its words are for the operator: they name files.
            again = OAuthError("temporarily_unavailable", "nothing was done: try again", status=503)
            return refuse(again, by, {"Retry-After": "1"})

    async def _authenticate(self, request: Request, form: Mapping[str, str]) -> AuthenticatedClient:
        headers = request.headers.getlist("authorization")
        if len(headers) > 1:
            raise OAuthError("invalid_request", "send one Authorization header")
        try:
            certificate = self._certificate_of(request.scope)
        except RefusedRequest as error:
            raise OAuthError("invalid_request", error.text) from None
        return await self._clients.authenticate(headers[0] if headers else None, form, certificate)

    async def _in_turn(self, asked: ClientRequest, decide: Decide) -> Response:
        """Hold one of the places in flight: strangers hold none, nor who has not sent all of the form."""
        by = asked.by
        places = self._unproven if by.client.is_stranger else self._proven
        source = one_source(by.source)
        if not places.take(source):
            busy = OAuthError("temporarily_unavailable", "too many requests at once", status=429)
            return refuse(busy, by, {"Retry-After": "1"})
        try:
            return await decide(asked)
        finally:
            places.give_back(source)


def refuse(
    refusal: OAuthError, by: Applicant | None, headers: Mapping[str, str] | None = None
) -> Response:
    """The answer of RFC 6749 section 5.2; `by` is None where nobody was authenticated."""
    sent = {**NO_STORE, **(headers or {})}
    if refusal.status == 401:
        sent["WWW-Authenticate"] = 'Basic realm="agentgw", charset="UTF-8"'
    if by is not None:
        sent["Agentgw-Event-Id"] = by.event_id
    body = {"error": refusal.error, "error_description": refusal.description}
    return JSONResponse(body, status_code=refusal.status, headers=sent)
