"""`/oauth/callback`, where people come back from signing in, and `/oauth/sign-out`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from agentgw.core.recorder import Recorder
from agentgw.core.sign_in import (
    Flow,
    OfflineRefused,
    Person,
    Proven,
    SignInRefused,
    read_callback,
    same,
)
from agentgw.errors import InvalidToken, OAuthError, Unavailable, UpstreamFailed
from agentgw.http.browser import Browser, RelyingParty
from agentgw.http.form import read_form
from agentgw.http.page import PRIVATE, page, problem_page
from agentgw.http.request import CountRefusal, Networks, source_of, user_agent_of

CALLBACK = "/oauth/callback"
SIGN_OUT = "/oauth/sign-out"
STATES = "sign_in"
"""The kind under which used states are remembered (registry/one_time.py)."""


class UsedStates(Protocol):
    """Remembers what was used; the call blocks on the disk and raises Unavailable."""

    def once(self, kind: str, secret: str, exp: int, now: float) -> bool: ...


Keep = Callable[[Proven, str, Flow, str], Awaitable[None]]


class SignIn:
    """The pages around signing in.

    `keep` keeps what the provider gave at a sign-in, under its `sid` and for the client we were there, or
    raises Unavailable. `barred` says in words why a person may not be here, None where they may. `refused`
    is told the source of each sign-in that came to nothing, which `trusted_proxies` say of those behind
    them. `clock` gives Unix seconds.
    """

    def __init__(
        self,
        browser: Browser,
        states: UsedStates,
        keep: Keep,
        *,
        barred: Callable[[Person], str | None],
        recorder: Recorder,
        refused: CountRefusal,
        clock: Callable[[], float],
        trusted_proxies: Networks = (),
    ) -> None:
        self._browser = browser
        self._states = states
        self._keep = keep
        self._barred = barred
        self._recorder = recorder
        self._refused = refused
        self._clock = clock
        self._trusted_proxies = trusted_proxies

    def routes(self) -> list[Route]:
        """The routes of this face, to be mounted at the root."""
        return [
            Route(CALLBACK, self.callback, methods=["GET"]),
            Route(SIGN_OUT, self.sign_out, methods=["POST"]),
        ]

    async def callback(self, request: Request) -> Response:
        """Finish the sign-in that this browser began: a new session, and on to where it was going."""
        try:
            return await self._finish(request)
        except SignInRefused as refusal:
            source = source_of(request.scope, self._trusted_proxies)
            self._refused(source, request.scope["path"])
            if refusal.cancelled:
                return problem_page(
                    403, "You did not sign in", "The identity provider says that you declined."
                )
            text = f"{_sentence(refusal.reason)} Go back to where you started, and try once more."
            return problem_page(400, "You are not signed in", text)
        except UpstreamFailed:
            return problem_page(
                503, "Signing in is not possible now", "The identity provider cannot be used."
            )
        except Unavailable:
            return problem_page(
                503, "Signing in is not possible now", "Nothing was done: try again."
            )

    async def sign_out(self, request: Request) -> Response:
        """End the session of whoever posts the form of their own page."""
        try:
            return await self._sign_out(request)
        except Unavailable:
            return problem_page(
                503, "You are still signed in", "This is not possible now: try again."
            )

    async def _sign_out(self, request: Request) -> Response:
        person = await self._browser.signed_in(request.scope)
        if person is not None:
            try:
                form = await read_form(request)
            except OAuthError as refusal:
                return problem_page(400, "That did not work", _sentence(refusal.description))
            if not self._browser.check_csrf(request.scope, person, SIGN_OUT, form.get("csrf")):
                return not_ours()
        response = page("signed_out")
        await self._browser.close_session(request.scope, response)
        return response

    async def _finish(self, request: Request) -> Response:
        answer = read_callback(request.scope.get("query_string", b""))
        flow = self._flow(request, answer.get("state", ""))
        party = self._browser.party()
        if party is None:
            raise SignInRefused("nobody signs in here any more")
        now = self._clock()
        if not await asyncio.to_thread(self._states.once, STATES, flow.state, flow.exp, now):
            raise SignInRefused("this answer was used before")
        try:
            proven = await self._identify(request, party, answer, flow)
        except OfflineRefused:
            return await self._browser.send_to_sign_in(request.scope, flow.then, online=True)
        person = proven.person
        if (why := self._barred(person)) is not None:
            await self._record(request, person, why)
            return problem_page(403, "You may not be here", "An operator has blocked your account.")
        await self._record(request, person)
        response = RedirectResponse(flow.then, 303, PRIVATE)
        renewable = proven.refresh is not None
        sid = await self._browser.open_session(
            request.scope, person, flow.issuer, response, renewable
        )
        await self._keep(proven, sid, flow, party.client_id)
        self._browser.drop_flow(request.scope, flow, response)
        return response

    def _flow(self, request: Request, state: str) -> Flow:
        for flow in self._browser.flows(request.scope):
            if same(flow.state, state):
                return flow
        raise SignInRefused(
            "this sign-in was not begun in this browser, or longer than ten minutes ago"
        )

    async def _identify(
        self, request: Request, party: RelyingParty, answer: dict[str, str], flow: Flow
    ) -> Proven:
        try:
            return await party.finish(answer, flow)
        except InvalidToken as error:
            # The provider itself answered so: somebody must look at this, and the record says why.
            await self._record(request, None, error.reason)
            raise SignInRefused(
                "the identity provider's answer does not prove who you are"
            ) from None

    async def _record(
        self, request: Request, person: Person | None, refusal: str | None = None
    ) -> None:
        detail: dict[str, Any] = {}
        if person is not None and person.acr is not None:
            detail["acr"] = person.acr
        if refusal is not None:
            detail["error"] = refusal
        await self._recorder.record(
            "login/sign-in",
            subject=None if person is None else person.subject,
            client=user_agent_of(request.scope),
            source=source_of(request.scope, self._trusted_proxies),
            reason=None if refusal is None else "invalid_token" if person is None else "revoked",
            detail=detail,
        )


def signed_out(again: str) -> Response:
    """The answer to a form whose session has ended; `again` is the page it stood on.

    No redirect: it would lead to another host, which browsers let no form of ours end at (`form-action`),
    and the user would see nothing happen.
    """
    return problem_page(403, "You are signed out", "Nothing was done: sign in again.", again=again)


def not_ours() -> Response:
    """The answer to a form that no page of this session sent."""
    return problem_page(
        403, "That did not come from your page", "Open the page again, and try once more."
    )


def _sentence(reason: str) -> str:
    return reason[:1].upper() + reason[1:] + "."
