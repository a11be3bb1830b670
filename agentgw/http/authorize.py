"""`/oauth/authorize`: a client sends its user, who signs in, is asked, and goes back with a code or a no."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from agentgw.core.authorize import (
    AuthorizationRequest,
    SentBack,
    Shown,
    client_id_of,
    code_answer,
    is_trusted,
    judge_request,
    pushed_key,
    read_query,
    send_back,
)
from agentgw.core.canonical import b64url
from agentgw.core.exchange_rules import ExchangeRules
from agentgw.core.login_grants import CODE_KEPT_SECONDS, CODE_SECONDS, Code
from agentgw.core.oauth_client import OAuthClient
from agentgw.core.one_time import Kept
from agentgw.core.redirect_uri import redirect_host
from agentgw.core.sign_in import SignedIn
from agentgw.errors import OAuthError, Unavailable
from agentgw.http.browser import Browser
from agentgw.http.consenting import FORM_BYTES, FORM_FIELDS, Consenting, NotPossible, Wish
from agentgw.http.form import read_form
from agentgw.http.login_grants import CODES
from agentgw.http.page import PRIVATE, page, problem_page
from agentgw.http.public_clients import LoginClients
from agentgw.http.request import CountRefusal, Networks, source_of
from agentgw.http.seal import Seal
from agentgw.http.sign_in import not_ours

AUTHORIZE = "/oauth/authorize"
PUSHED = "pushed_request"
ANSWERED = "consent_page"
"""The kinds under which pushed requests and pages that were answered are kept (registry/one_time.py)."""
PAGE_SECONDS = 600

_AGAIN = "signed_in_again"
"""Added to the way back from the sign-in page, where `prompt` had sent somebody there."""


class Secrets(Protocol):
    """Where secrets are kept by hash; calls block on the disk. All raise Unavailable."""

    def put(self, kind: str, secret: str, payload: Mapping[str, Any], exp: int) -> None: ...

    def look(self, kind: str, secret: str, now: float) -> Kept | None: ...

    def take(self, kind: str, secret: str, now: float) -> Kept | None: ...

    def once(self, kind: str, secret: str, exp: int, now: float) -> bool: ...


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request that was read: its parameters, who sent it, what it wants. `pushed` is its PAR secret."""

    params: Mapping[str, str]
    client: OAuthClient
    request: AuthorizationRequest
    pushed: str | None = None

    @property
    def wish(self) -> Wish:
        request = self.request
        return Wish(self.client, request.resource, request.scopes, request.redirect_uri)


class AuthorizationEndpoint:
    """The authorization endpoint. `rules` gives what is in use now, `clock` Unix seconds; `refused` is told
    the source of each request that was wrong."""

    def __init__(
        self,
        browser: Browser,
        seal: Seal,
        *,
        clients: LoginClients,
        kept: Secrets,
        consenting: Consenting,
        rules: Callable[[], ExchangeRules],
        refused: CountRefusal,
        clock: Callable[[], float],
        trusted_proxies: Networks = (),
    ) -> None:
        self._browser = browser
        self._seal = seal
        self._clients = clients
        self._kept = kept
        self._consenting = consenting
        self._rules = rules
        self._refused = refused
        self._clock = clock
        self._trusted_proxies = trusted_proxies

    def routes(self) -> list[Route]:
        """The routes of this face, to be mounted at the root."""
        return [
            Route(AUTHORIZE, self.ask, methods=["GET"]),
            Route(AUTHORIZE, self.answer, methods=["POST"]),
        ]

    async def ask(self, request: Request) -> Response:
        """Judge the request, have the user sign in, and ask them."""
        return await self._told(request, self._ask(request))

    async def answer(self, request: Request) -> Response:
        """Take the answer of our own page, from the user it was shown to and nobody else."""
        return await self._told(request, self._answer(request))

    async def _told(self, request: Request, answer: Any) -> Response:
        """Whatever goes wrong is told to the one who should know (RFC 6749 section 4.1.2.1)."""
        try:
            response: Response = await answer
        except Shown as error:
            source = source_of(request.scope, self._trusted_proxies)
            self._refused(source, request.scope["path"])
            return problem_page(400, "This request cannot be used", _sentence(error.reason))
        except SentBack as error:
            return _sent_back(error)
        except NotPossible as error:
            return problem_page(403, "This agent cannot act for you", error.reason)
        except OAuthError as error:
            return problem_page(400, "That did not work", _sentence(error.description))
        except Unavailable:
            return problem_page(503, "This is not possible now", "Nothing was done: try again.")
        return response

    async def _ask(self, request: Request) -> Response:
        if not self._rules().let_in:
            return Response(status_code=404)
        query = request.scope.get("query_string", b"")
        params = read_query(query)
        asked = await self._read(params)
        person = await self._browser.signed_in(request.scope)
        prompt = asked.request.prompt
        if "none" in prompt:
            # The page is always shown, so without a user to see it there is no code.
            code = "login_required" if person is None else "consent_required"
            by_itself = is_trusted(asked.client, asked.request.redirect_uri)
            raise self._back(asked, code, "the user must be asked", by_itself)
        anew = bool(prompt & {"login", "select_account"}) and _AGAIN not in params
        if person is None or anew:
            then = f"{AUTHORIZE}?{query.decode('ascii')}" + (f"&{_AGAIN}=1" if anew else "")
            return await self._browser.send_to_sign_in(request.scope, then)
        return await self._page(person, asked)

    async def _page(self, person: SignedIn, asked: _Asked) -> Response:
        sealed = {
            "params": dict(asked.params),
            "pushed": asked.pushed,
            "agent": asked.client.agent,
            "id": b64url(secrets.token_bytes(16)),
            "exp": int(self._clock()) + PAGE_SECONDS,
        }
        return await self._consenting.ask(
            person,
            asked.wish,
            AUTHORIZE,
            request=self._seal.seal("consent", json.dumps(sealed).encode(), _whose(person)),
            csrf=self._browser.csrf(person, AUTHORIZE),
        )

    async def _answer(self, request: Request) -> Response:
        if not self._rules().let_in:
            return Response(status_code=404)
        person = await self._browser.signed_in(request.scope)
        if person is None:
            return problem_page(403, "You are signed out", "Start again where you came from.")
        form = await read_form(request, fields=FORM_FIELDS, limit=FORM_BYTES)
        if not self._browser.check_csrf(request.scope, person, AUTHORIZE, form.get("csrf")):
            return not_ours()
        sealed = self._seal.open("consent", form.get("request", ""), _whose(person))
        if sealed is None:
            return not_ours()
        shown = json.loads(sealed)
        asked = await self._judge(shown["params"], shown["pushed"])
        if asked.client.agent != shown["agent"]:
            raise Shown("its program is another agent by now; start again where you came from")
        await self._use_up(shown)
        if form.get("answer") != "allow":
            await self._consenting.deny(request, person, asked.wish)
            raise self._back(asked, "access_denied", "the user said no", by_itself=True)
        login = await self._consenting.allow(request, person, asked.wish, form)
        if login is None:
            raise Shown("the page was not filled in")
        code = await self._code(login.jti, asked.request)
        location = code_answer(asked.request, self._rules().issuer, code)
        return RedirectResponse(location, 303, PRIVATE)

    async def _read(self, params: Mapping[str, str]) -> _Asked:
        """The request that a query makes: its own, or the one pushed before. Raises Shown or SentBack."""
        client_id = client_id_of(params)
        pushed = pushed_key(params)
        if pushed is None:
            return await self._judge(params, None)
        kept = await asyncio.to_thread(self._kept.look, PUSHED, pushed, self._clock())
        if kept is None or kept.used is not None or kept.payload["client_id"] != client_id:
            raise Shown("its request_uri is unknown, was used before, or has expired")
        return await self._judge(kept.payload, pushed)

    async def _judge(self, params: Mapping[str, str], pushed: str | None) -> _Asked:
        try:
            client = await self._clients.find(client_id_of(params))
        except OAuthError as error:
            raise Shown(error.description) from None
        if client is None:
            raise Shown("no client of that client_id is known here")
        rules = self._rules()
        request = judge_request(params, client, rules.issuer, rules.resources)
        return _Asked(params, client, request, pushed)

    async def _use_up(self, shown: Mapping[str, Any]) -> None:
        """A page is answered once, and a pushed request with it. Raises Shown or Unavailable."""
        now, exp = self._clock(), shown["exp"]
        if exp <= now:
            raise Shown("it waited for more than ten minutes; start again where you came from")
        if not await asyncio.to_thread(self._kept.once, ANSWERED, shown["id"], exp, now):
            raise Shown("it was answered before")
        if shown["pushed"] is not None:
            kept = await asyncio.to_thread(self._kept.take, PUSHED, shown["pushed"], now)
            if kept is None or kept.used is not None:
                raise Shown("its request_uri was used before, or has expired")

    async def _code(self, login: str, request: AuthorizationRequest) -> str:
        secret, now = b64url(secrets.token_bytes(32)), int(self._clock())
        code = Code(
            login,
            request.client_id,
            request.redirect_uri,
            request.challenge,
            now + CODE_SECONDS,
            request.jkt,
        )
        exp = now + CODE_KEPT_SECONDS
        await asyncio.to_thread(self._kept.put, CODES, secret, code.payload(), exp)
        return secret

    def _back(self, asked: _Asked, error: str, description: str, by_itself: bool) -> SentBack:
        request = asked.request
        issuer = self._rules().issuer
        return send_back(request.redirect_uri, request.state, issuer, error, description, by_itself)


def _sent_back(error: SentBack) -> Response:
    if error.by_itself:
        return RedirectResponse(error.location, 303, PRIVATE)
    return page(
        "sent_back",
        400,
        host=redirect_host(error.location),
        location=error.location,
        description=error.description[:1].upper() + error.description[1:],
    )


def _whose(person: SignedIn) -> str:
    """What a page is sealed to: this user, in this session of their browser."""
    return f"{person.sid}\0{person.subject.iss}\0{person.subject.sub}"


def _sentence(reason: str) -> str:
    return reason[:1].upper() + reason[1:] + "."
