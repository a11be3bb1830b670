"""`POST /oauth/token`: the grants an authenticated agent may use (RFC 6749 section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agentgw.core.client_credentials import (
    CLIENT_CREDENTIALS,
    ClientCredentialsRequest,
    parse_client_credentials,
)
from agentgw.core.exchange import Exchanged, ExchangeRules
from agentgw.core.exchange_request import GRANT_TYPE, parse_request
from agentgw.core.id_jag import JWT_BEARER, IdJagRequest, parse_id_jag
from agentgw.core.login_grants import LOGIN_GRANTS, LoginRequest, parse_login_request
from agentgw.errors import OAuthError
from agentgw.http.client_request import METHODS, NO_STORE, ClientRequest, ClientRequests, refuse
from agentgw.http.issuing import Asked, Issuing, Signer
from agentgw.http.login_grants import LoginGrants
from agentgw.http.possession import Possession


class TokenEndpoint:
    """The token endpoint. `rules` and `possession` give what is in use now, `clock` Unix seconds."""

    def __init__(
        self,
        *,
        requests: ClientRequests,
        issuing: Issuing,
        logins: LoginGrants,
        signer: Signer,
        rules: Callable[[], ExchangeRules],
        possession: Callable[[], Possession],
        clock: Callable[[], float],
    ) -> None:
        self._requests = requests
        self._issuing = issuing
        self._logins = logins
        self._signer = signer
        self._rules = rules
        self._possession = possession
        self._clock = clock

    def routes(self) -> list[Route]:
        """The route of this face, to be mounted at the root."""
        return [Route("/oauth/token", self.token, methods=METHODS)]

    def grant_types(self) -> list[str]:
        """The grants that work now."""
        rules = self._rules()
        found = [GRANT_TYPE]
        if any(agent.own_scopes is not None for agent in rules.agents.values()):
            found.append(CLIENT_CREDENTIALS)
        if rules.assertions_of:
            found.append(JWT_BEARER)
        if rules.let_in:
            found += LOGIN_GRANTS
        return found

    async def token(self, request: Request) -> Response:
        """One token request: authenticate, decide, record, then answer."""
        return await self._requests.answer(request, self._decide)

    async def _decide(self, asked: ClientRequest) -> Response:
        try:
            made = await self._grant(asked)
        except OAuthError as refusal:
            if refusal.error != "use_dpop_nonce":
                raise
            return refuse(refusal, asked.by, self._possession().nonce_header(self._clock()))
        token = (await self._signer.mint(made.claims)).decode("ascii")
        nonce = self._possession().nonce_header(self._clock())
        return Response(
            orjson.dumps({"access_token": token, **made.answer}),
            headers={**NO_STORE, **nonce, "Agentgw-Event-Id": asked.by.event_id},
            media_type="application/json",
        )

    async def _grant(self, asked: ClientRequest) -> Exchanged:
        """Let the grant that is named decide; its refusals are on record, as are those of the form."""
        by, issuing = asked.by, self._issuing
        try:
            presented = await self._possession().presented(asked.scope, self._clock())
            wanted = self._parse(asked.form)
        except OAuthError as refusal:
            await issuing.refuse(by, refusal)
            raise
        if isinstance(wanted, ClientCredentialsRequest):
            return await issuing.for_itself(wanted, by, presented)
        if isinstance(wanted, IdJagRequest):
            return await issuing.redeem(wanted, by, presented)
        if isinstance(wanted, LoginRequest):
            return await self._logins.grant(wanted, by, presented)
        return await issuing.exchange(wanted, by, presented)

    def _parse(self, form: Mapping[str, str]) -> Asked:
        """What the grant asks for that the form names. Raises OAuthError."""
        named = form.get("grant_type")
        if named == CLIENT_CREDENTIALS in self.grant_types():
            return parse_client_credentials(form)
        if named == JWT_BEARER in self.grant_types():
            return parse_id_jag(form)
        if named in LOGIN_GRANTS and named in self.grant_types():
            return parse_login_request(form)
        return parse_request(form)
