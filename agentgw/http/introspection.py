"""`POST /oauth/introspect`: what a token says, to those it concerns (RFC 7662), also signed (RFC 9701)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agentgw.core.exchange import ExchangeAgent, ExchangeRules
from agentgw.core.recorder import Recorder
from agentgw.core.revocation import Revoked
from agentgw.errors import InvalidToken, Unavailable, UnverifiableToken
from agentgw.http.client_request import METHODS, NO_STORE, ClientRequest, ClientRequests
from agentgw.http.issuing import Signer
from agentgw.http.revocation import Verifier, token_of
from agentgw.identity import Verified

SIGNED = "application/token-introspection+jwt"
SHOWN = (
    "iss", "sub", "aud", "exp", "iat", "nbf", "jti", "client_id", "scope", "act", "may_act", "cnf",
    "authorization_details", "txn", "acr", "auth_time",
)  # fmt: skip
"""The claims that an answer repeats. Groups, names and addresses are nobody's business here."""

_UNBELIEVED = ("act", "txn")
"""What another issuer's token may say without our believing it."""


class IntrospectionEndpoint:
    """The introspection endpoint.

    `verifier` and `rules` give what is in use now, `revoked` who was locked out. `clock` gives Unix
    seconds.
    """

    def __init__(
        self,
        *,
        requests: ClientRequests,
        verifier: Callable[[], Verifier],
        revoked: Revoked,
        rules: Callable[[], ExchangeRules],
        signer: Signer,
        recorder: Recorder,
        clock: Callable[[], float],
    ) -> None:
        self._requests = requests
        self._verifier = verifier
        self._revoked = revoked
        self._rules = rules
        self._signer = signer
        self._recorder = recorder
        self._clock = clock

    def routes(self) -> list[Route]:
        """The route of this face, to be mounted at the root."""
        return [Route("/oauth/introspect", self.introspect, methods=METHODS)]

    async def introspect(self, request: Request) -> Response:
        """Say what a token is, or only that it is not active."""
        return await self._requests.answer(request, self._decide)

    async def _decide(self, asked: ClientRequest) -> Response:
        if self._revoked.stale:
            raise Unavailable("revocations cannot be read")
        token = token_of(asked.form).encode()
        rules = self._rules()
        agent = rules.agents.get(asked.by.client.agent)
        found: dict[str, Any] | None = None
        if agent is not None and not agent.disabled:
            found = await self._look(token, agent)
        await self._record(asked, agent, found)
        body: dict[str, Any] = {"active": False} if found is None else found
        headers = {**NO_STORE, "Vary": "Accept", "Agentgw-Event-Id": asked.by.event_id}
        if not _wants_signed(asked.accept) or agent is None:
            return JSONResponse(body, headers=headers)
        # No sub, exp or jti outside the member: it must not pass for a token (RFC 9701 section 5).
        claims = {
            "iss": rules.issuer,
            "aud": agent.id,
            "iat": int(self._clock()),
            "token_introspection": body,
        }
        signed = await self._signer.mint(claims, "token-introspection+jwt")
        return Response(signed, media_type=SIGNED, headers=headers)

    async def _look(self, token: bytes, agent: ExchangeAgent) -> dict[str, Any] | None:
        """The answer for this agent, None for "not active": unknown, over, or none of its business."""
        now = self._clock()
        try:
            verified = await self._verifier().verify_subject_token(token, now)
        except UnverifiableToken:
            raise Unavailable("the keys of the token's issuer cannot be had") from None
        except InvalidToken:
            return self._look_at_call(token, agent, now)
        if not _concerns(verified, agent):
            return None
        if self._revoked.party(verified.subject, verified.chain) is not None:
            return None
        issued = verified.issued
        if issued is None:
            shown = [name for name in SHOWN if name not in _UNBELIEVED]
            return _answer(verified.claims, shown)
        limit = {} if issued.consent is None else {"agentgw_consent": issued.consent.shown()}
        return {**_answer(verified.claims, SHOWN), **limit}

    def _look_at_call(
        self, token: bytes, agent: ExchangeAgent, now: float
    ) -> dict[str, Any] | None:
        """A per-call token: genuine and alive is all we know, since its use is counted by the server."""
        try:
            claims = self._verifier().verify_call_token(token, now)
        except InvalidToken:
            return None
        ids = {*_actors(claims.get("act")), *_actors(claims.get("may_act"))}
        return _answer(claims, SHOWN) if agent.id in ids else None

    async def _record(
        self, asked: ClientRequest, agent: ExchangeAgent | None, found: Mapping[str, Any] | None
    ) -> None:
        await self._recorder.record(
            "oauth/introspect",
            event_id=asked.by.event_id,
            presenter=asked.by.client.agent if agent is None else agent.id,
            client=asked.by.user_agent,
            source=asked.by.source,
            detail={
                "client_auth": asked.by.client.method,
                "active": found is not None,
                "jti": None if found is None else found.get("jti"),
            },
        )


def _concerns(verified: Verified, agent: ExchangeAgent) -> bool:
    """Whether the agent holds the token rightly: it presents it, stands in it, or is to take it up."""
    ids = {verified.presenter, verified.may_act, *(hop.id for hop in verified.chain)}
    return agent.id in ids or (verified.issuer, verified.client_id) in agent.subject_from


def _answer(claims: Mapping[str, Any], shown: Any) -> dict[str, Any]:
    said = {name: claims[name] for name in shown if name in claims}
    return {"active": True, "token_type": _token_type(claims), **said}


def _token_type(claims: Mapping[str, Any]) -> str:
    cnf = claims.get("cnf")
    return "DPoP" if isinstance(cnf, dict) and "jkt" in cnf else "Bearer"


def _actors(act: object) -> list[object]:
    found: list[object] = []
    while isinstance(act, dict):
        found.append(act.get("sub"))
        act = act.get("act")
    return found


def _wants_signed(accept: str) -> bool:
    return any(part.partition(";")[0].strip() == SIGNED for part in accept.split(","))
