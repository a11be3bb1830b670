"""The OpenID Connect relying party: sends people to sign in, and learns from the provider who they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from agentgw.core.recheck import (
    Known,
    Renewed,
    judge_again,
    judge_userinfo,
    read_renewed,
    refresh_form,
)
from agentgw.core.sign_in import (
    Flow,
    LoginRules,
    OfflineRefused,
    Person,
    Proven,
    authorization_url,
    code_request,
    id_token_of,
    judge_callback,
    judge_id_token,
    may_go_without,
    refresh_token_in,
)
from agentgw.errors import UpstreamFailed


class GenuineToken(Protocol):
    """What a JWT says whose signature holds; `typ` and `alg` are its header's."""

    @property
    def claims(self) -> Mapping[str, Any]: ...

    @property
    def typ(self) -> str | None: ...

    @property
    def alg(self) -> str: ...


class Provider(Protocol):
    """The OpenID provider. All raise UpstreamFailed while it cannot be used, `id_token` InvalidToken too."""

    async def metadata(self) -> Mapping[str, Any]: ...

    async def redeem(self, form: Mapping[str, str]) -> tuple[int, Any]: ...

    async def id_token(self, token: str) -> GenuineToken: ...

    async def userinfo(self, access_token: str) -> Any: ...


class RelyingParty:
    """The code flow at one provider, by `rules`. `clock` gives Unix seconds."""

    def __init__(self, rules: LoginRules, provider: Provider, clock: Callable[[], float]) -> None:
        self._rules = rules
        self._provider = provider
        self._clock = clock

    @property
    def issuer(self) -> str:
        """The identifier of where people sign in."""
        return self._rules.issuer.issuer

    async def authorization_url(self, flow: Flow) -> str:
        """Where to send the browser. Raises UpstreamFailed."""
        return authorization_url(self._rules, await self._provider.metadata(), flow)

    @property
    def client_id(self) -> str:
        """Who we are there."""
        return self._rules.client_id

    async def finish(self, answer: Mapping[str, str], flow: Flow) -> Proven:
        """Who signed in, by the answer that the browser brought to `flow`.

        Raises SignInRefused (OfflineRefused: to be begun anew `online`), UpstreamFailed where the provider
        cannot be used, InvalidToken where its ID token is none we may believe.
        """
        metadata = await self._provider.metadata()
        self._check_offline(metadata, flow, answer.get("error"))
        code = judge_callback(answer, metadata, self._rules, flow)
        status, document = await self._provider.redeem(code_request(self._rules, flow, code))
        if status != 200 and isinstance(document, dict):
            self._check_offline(metadata, flow, document.get("error"))
        token = await self._provider.id_token(id_token_of(status, document))
        person = judge_id_token(
            token.claims, token.typ, token.alg, self._rules, flow, self._clock()
        )
        return Proven(person, refresh_token_in(document))

    def _check_offline(self, metadata: Mapping[str, Any], flow: Flow, error: object) -> None:
        if may_go_without(self._rules, metadata, flow, error):
            raise OfflineRefused("the identity provider gives no offline access here")

    async def renew(self, known: Known) -> Renewed:
        """Use a sign-in's refresh token: what is kept of the answer is good for the next time, whatever
        it says of the user. Raises SignInOver or UpstreamFailed."""
        return read_renewed(*await self._provider.redeem(refresh_form(known)), known)

    async def who(self, renewed: Renewed, known: Known) -> Person:
        """Who the provider says it is by now, by ID token or else at its userinfo endpoint.

        Raises UpstreamFailed, or InvalidToken for an answer that we may not believe.
        """
        if renewed.id_token is None:
            if renewed.access is None:
                raise UpstreamFailed("it answered with neither ID token nor access token")
            said = await self._provider.userinfo(renewed.access)
            return judge_userinfo(said, self._rules, known)
        token = await self._provider.id_token(renewed.id_token)
        return judge_again(token.claims, token.typ, token.alg, self._rules, known, self._clock())
