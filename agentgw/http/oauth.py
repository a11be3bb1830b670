"""The OAuth faces: token endpoint, public keys, metadata (RFC 6749, RFC 8693, RFC 7517, RFC 8414)."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agentgw.core.canonical import b64url
from agentgw.core.exchange import ExchangeRules, SubjectToken, exchange
from agentgw.core.exchange_request import GRANT_TYPE, ExchangeRequest, parse_request
from agentgw.core.principal import Issued
from agentgw.core.record import event_record
from agentgw.errors import InvalidToken, OAuthError, Unavailable
from agentgw.http.form import read_form
from agentgw.http.request import Networks, source_of
from agentgw.identity import Verified
from agentgw.sts.clients import ASSERTION_ALGORITHMS, METHODS, AuthenticatedClient
from agentgw.sts.keys import KeyRing
from agentgw.sts.mint import Minter

SUBJECT_TOKEN_LIMIT = 16 * 1024

_NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}


class SubjectVerifier(Protocol):
    """Tells what a subject_token says. Raises InvalidToken, or Unavailable where it cannot know."""

    async def verify_subject_token(self, token: bytes, now: float) -> Verified: ...


class Authenticator(Protocol):
    """Tells which agent a request comes from. Raises OAuthError or Unavailable."""

    async def authenticate(
        self, authorization: str | None, form: Mapping[str, str]
    ) -> AuthenticatedClient: ...


class IssuedTokens(Protocol):
    """The ledger; its call blocks on the disk. Raises Unavailable."""

    def record(self, issued: Issued) -> None: ...


@dataclasses.dataclass(frozen=True, slots=True)
class _Seen:
    """What an authenticated request's record says of its way in."""

    event_id: str
    source: str
    user_agent: str | None


class OAuthEndpoint:
    """The token endpoint and the documents that describe it.

    `verifier` and `rules` give what is in use now, as reloads swap it. `append` makes a record
    durable or raises Unavailable; nothing is answered to an authenticated client before.
    `new_event_id` makes UUIDv7s, `clock` gives Unix seconds, `refused` is told the source of each
    unauthenticated failure, which the `trusted_proxies` say of those behind them.
    """

    def __init__(
        self,
        *,
        verifier: Callable[[], SubjectVerifier],
        clients: Authenticator,
        ledger: IssuedTokens,
        keyring: KeyRing,
        minter: Minter,
        rules: Callable[[], ExchangeRules],
        append: Callable[[dict[str, object]], Awaitable[object]],
        new_event_id: Callable[[], str],
        clock: Callable[[], float],
        refused: Callable[[str], None] = lambda source: None,
        max_in_flight: int = 64,
        trusted_proxies: Networks = (),
    ) -> None:
        self._verifier = verifier
        self._clients = clients
        self._ledger = ledger
        self._keyring = keyring
        self._minter = minter
        self._rules = rules
        self._append = append
        self._new_event_id = new_event_id
        self._clock = clock
        self._refused = refused
        self._free = max_in_flight
        self._trusted_proxies = trusted_proxies

    def routes(self) -> list[Route]:
        """The routes of this face, to be mounted at the root."""
        return [
            Route("/oauth/token", self.token, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
            Route("/oauth/jwks.json", self.jwks, methods=["GET"]),
            Route("/.well-known/oauth-authorization-server", self.metadata, methods=["GET"]),
            Route("/.well-known/openid-configuration", self.metadata, methods=["GET"]),
        ]

    async def jwks(self, request: Request) -> Response:
        """The public keys that verify our tokens."""
        return JSONResponse(
            await asyncio.to_thread(self._keyring.jwks),
            headers={"Cache-Control": "public, max-age=300"},
        )

    async def metadata(self, request: Request) -> Response:
        """What this authorization server can do, and nothing it cannot (RFC 8414 section 2)."""
        issuer = self._rules().issuer
        return JSONResponse(
            {
                "issuer": issuer,
                "token_endpoint": f"{issuer}/oauth/token",
                "jwks_uri": f"{issuer}/oauth/jwks.json",
                # Required by the RFC even where no response type is offered.
                "response_types_supported": [],
                "grant_types_supported": [GRANT_TYPE],
                "token_endpoint_auth_methods_supported": list(METHODS),
                "token_endpoint_auth_signing_alg_values_supported": list(ASSERTION_ALGORITHMS),
            },
            headers={"Cache-Control": "public, max-age=300"},
        )

    async def token(self, request: Request) -> Response:
        """One token request: authenticate, decide, record, then answer."""
        if request.method != "POST":
            refusal = OAuthError("invalid_request", "send a POST with a form", status=405)
            return _refuse(refusal, headers={"Allow": "POST"})
        source = source_of(request.scope, self._trusted_proxies) or ""
        seen: _Seen | None = None
        try:
            form = await read_form(request)
            client = await self._clients.authenticate(_authorization(request), form)
            user_agent = request.headers.get("user-agent", "")[:200] or None
            seen = _Seen(self._new_event_id(), source, user_agent)
            return await self._decide_in_turn(form, client, seen)
        except OAuthError as refusal:
            if seen is None:
                self._refused(source)
            return _refuse(refusal, seen)
        except Unavailable:
            # Its words are for the operator: they name files.
            return _refuse(_UNAVAILABLE, seen, headers={"Retry-After": "1"})

    async def _decide_in_turn(
        self, form: Mapping[str, str], client: AuthenticatedClient, seen: _Seen
    ) -> Response:
        """Hold one of the places in flight: only authenticated clients do, whose form is here."""
        if self._free <= 0:
            busy = OAuthError("temporarily_unavailable", "too many requests at once", status=429)
            return _refuse(busy, headers={"Retry-After": "1"})
        self._free -= 1
        try:
            return await self._decide(form, client, seen)
        finally:
            self._free += 1

    async def _decide(
        self, form: Mapping[str, str], client: AuthenticatedClient, seen: _Seen
    ) -> Response:
        rules = self._rules()
        asked: ExchangeRequest | None = None
        subject: SubjectToken | None = None
        try:
            asked = parse_request(form)
            subject = await self._subject(asked, rules.issuer)
            made = exchange(
                asked,
                subject,
                client.agent,
                rules,
                now=int(self._clock()),
                jti=b64url(secrets.token_bytes(16)),
                txn="t-" + b64url(secrets.token_bytes(12)),
            )
        except OAuthError as refusal:
            await self._append(self._record(client, seen, asked, subject, refusal=refusal))
            raise
        await asyncio.to_thread(self._ledger.record, made.issued)
        await self._append(self._record(client, seen, asked, subject, issued=made.issued))
        token = self._minter.sign(made.claims).decode("ascii")
        return JSONResponse(
            {"access_token": token, **made.answer},
            headers={**_NO_STORE, "Agentgw-Event-Id": seen.event_id},
        )

    async def _subject(self, asked: ExchangeRequest, issuer: str) -> SubjectToken:
        token = asked.subject_token.encode()
        if len(token) > SUBJECT_TOKEN_LIMIT:
            raise OAuthError("invalid_request", "the subject_token is too large")
        try:
            verified = await self._verifier().verify_subject_token(token, self._clock())
        except InvalidToken as error:
            description = f"the subject_token was refused: {error.reason}"
            raise OAuthError("invalid_request", description) from None
        return subject_token(verified, issuer)

    def _record(
        self,
        client: AuthenticatedClient,
        seen: _Seen,
        asked: ExchangeRequest | None,
        subject: SubjectToken | None,
        *,
        issued: Issued | None = None,
        refusal: OAuthError | None = None,
    ) -> dict[str, object]:
        agent = self._rules().agents.get(client.agent)
        detail = {"client_auth": client.method}
        if refusal is not None:
            detail["error"] = refusal.description
        txn = subject.txn if subject is not None and subject.ours else None
        chain = () if subject is None else subject.chain
        return event_record(
            id=self._new_event_id(),
            event_id=seen.event_id,
            now=self._clock(),
            method="oauth/token",
            txn=txn if issued is None else issued.txn,
            subject=None if subject is None else subject.subject,
            chain=chain if issued is None else issued.chain,
            presenter=client.agent if agent is None else agent.id,
            client=seen.user_agent,
            source=seen.source,
            name=None if asked is None else asked.target,
            inbound=None if subject is None else subject.inbound,
            issued=None if issued is None else _issued_facts(issued),
            decision="allow" if refusal is None else "deny",
            reason=None if refusal is None else refusal.error,
            detail=detail,
        )


def subject_token(verified: Verified, our_issuer: str) -> SubjectToken:
    """What exchange needs of a verified token."""
    ours = verified.issuer == our_issuer
    client = None if ours or verified.client_id is None else (verified.issuer, verified.client_id)
    return SubjectToken(
        subject=verified.subject,
        chain=verified.chain,
        scopes=verified.scopes,
        resources=verified.resources,
        exp=verified.exp,
        inbound=verified.inbound,
        client=client,
        has_act=verified.has_act,
        groups=verified.groups,
        txn=verified.txn,
        may_act=verified.may_act,
        acr=verified.acr,
        auth_time=verified.auth_time,
        ours=ours,
        entry=verified.issued,
        dropped_act=verified.dropped_act,
    )


def _authorization(request: Request) -> str | None:
    values = request.headers.getlist("authorization")
    if len(values) > 1:
        raise _invalid_request("send one Authorization header")
    return values[0] if values else None


_UNAVAILABLE = OAuthError("temporarily_unavailable", "nothing was issued: try again", status=503)


def _refuse(
    refusal: OAuthError, seen: _Seen | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    sent = {**_NO_STORE, **(headers or {})}
    if refusal.status == 401:
        sent["WWW-Authenticate"] = 'Basic realm="agentgw", charset="UTF-8"'
    if seen is not None:
        sent["Agentgw-Event-Id"] = seen.event_id
    body = {"error": refusal.error, "error_description": refusal.description}
    return JSONResponse(body, status_code=refusal.status, headers=sent)


def _issued_facts(issued: Issued) -> dict[str, object]:
    scope = " ".join(sorted(issued.scopes)) or None
    return {"jti": issued.jti, "aud": issued.audience, "scope": scope, "exp": issued.exp}


def _invalid_request(description: str) -> OAuthError:
    return OAuthError("invalid_request", description)
