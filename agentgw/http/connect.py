"""Where users connect their accounts at tool servers, and what we publish of ourselves as the client there.

The browser's signed-in user must be the one whose account it will be before anything is asked of anybody,
and again before anything is kept. Every step is a durable record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from agentgw.core.one_time import Kept
from agentgw.core.principal import Subject
from agentgw.core.recorder import Recorder
from agentgw.core.sign_in import SignedIn
from agentgw.core.upstream_oauth import client_document, scopes_in
from agentgw.errors import OAuthError, Unavailable, UpstreamFailed
from agentgw.http.browser import Browser
from agentgw.http.form import read_form
from agentgw.http.page import ANY_SITE, PRIVATE, page, problem_page
from agentgw.http.request import Networks, source_of

LINK = "connect-link"
LINK_SECONDS = 600
"""How long a link made at call time may lie unused."""

_USED = "This link works once, and was used or has ended. Call the tool again for a new one."


class Offer(Protocol):
    """What a user would agree to."""

    @property
    def issuer(self) -> str: ...
    @property
    def resource(self) -> str: ...
    @property
    def scopes(self) -> frozenset[str]: ...
    @property
    def origin(self) -> str: ...


class Departure(Protocol):
    """Where to send the browser, and the secret that its cookie must bring back."""

    @property
    def url(self) -> str: ...
    @property
    def cookie(self) -> str: ...


class Connected(Protocol):
    """What was connected."""

    @property
    def server(self) -> str: ...
    @property
    def facts(self) -> Mapping[str, Any]: ...


class Connections(Protocol):
    """Connects accounts at one tool server; all raise UpstreamFailed or Unavailable."""

    async def offer(self, user: Subject, demanded: frozenset[str]) -> Any: ...
    async def depart(self, user: Subject, offer: Any) -> Any: ...
    async def arrive(self, user: Subject, state: Mapping[str, Any], query: str) -> Any: ...


class OneTime(Protocol):
    """Secrets that work once; calls block on the disk and raise Unavailable."""

    def look(self, kind: str, secret: str, now: float) -> Kept | None: ...
    def take(self, kind: str, secret: str, now: float) -> Kept | None: ...


class ConnectEndpoint:
    """`/oauth/connect/{server}`, its callback, and our client metadata document.

    `at` gives the connections of a server, None where it has none, and `servers` those that have some;
    `borrowers` names the agents that may use a user's account there with no user present. `check_state`
    says why an answer is not for this user, server and cookie. `connected` is told of a server at which an
    account is new.
    """

    def __init__(
        self,
        public_url: str,
        browser: Browser,
        one_time: OneTime,
        at: Callable[[str], Connections | None],
        servers: Callable[[], Iterable[str]],
        borrowers: Callable[[Subject, str], tuple[str, ...]],
        state_kind: str,
        check_state: Callable[[Mapping[str, Any], Subject, str, str | None], str | None],
        connected: Callable[[str], None],
        jwks: Callable[[], dict[str, Any]],
        recorder: Recorder,
        clock: Callable[[], float],
        trusted_proxies: Networks = (),
    ) -> None:
        self._public_url = public_url
        self._browser = browser
        self._one_time = one_time
        self._at = at
        self._servers = servers
        self._borrowers = borrowers
        self._state_kind = state_kind
        self._check_state = check_state
        self._connected = connected
        self._jwks = jwks
        self._recorder = recorder
        self._clock = clock
        self._trusted_proxies = trusted_proxies
        self._cookie = f"{browser.session_cookie}-connect"

    def routes(self) -> list[Route]:
        """The routes, to be mounted at the root."""
        return [
            Route("/oauth/connect/callback/{server}", self._callback, methods=["GET"]),
            Route("/oauth/connect/{server}", self._ask, methods=["GET"]),
            Route("/oauth/connect/{server}", self._agree, methods=["POST"]),
            Route("/oauth/client.json", self._document, methods=["GET"]),
            Route("/oauth/client.jwks.json", self._keys, methods=["GET"]),
        ]

    async def _ask(self, request: Request) -> Response:
        """The page that says what would be connected. Opening it changes nothing, for the right user."""
        try:
            return await self._asked(request)
        except UpstreamFailed as error:
            return _failed(request.path_params["server"], error)
        except Unavailable:
            return _unavailable()

    async def _asked(self, request: Request) -> Response:
        server = request.path_params["server"]
        person = await self._browser.signed_in(request.scope)
        if person is None:
            query = request.url.query
            then = request.url.path + (f"?{query}" if query else "")
            return await self._browser.send_to_sign_in(request.scope, then)
        at = self._at(server)
        if at is None:
            return _nothing()
        secret = request.query_params.get("link", "")
        demanded: frozenset[str] = frozenset()
        if secret:
            link = await asyncio.to_thread(self._one_time.look, LINK, secret, self._clock())
            if link is None or link.used is not None or link.payload["server"] != server:
                return problem_page(400, "This link cannot be used", _USED)
            if not _is_of(link.payload, person.subject):
                return await self._refuse_stranger(request, server, person, secret)
            demanded = frozenset(link.payload["scopes"])
        offer = await at.offer(person.subject, demanded)
        return page(
            "connect",
            form_action=(offer.origin, ANY_SITE),
            server=server,
            resource=offer.resource,
            issuer=offer.issuer,
            scopes=sorted(offer.scopes),
            user=person.name or person.subject.name,
            subject=person.subject.name,
            borrowers=self._borrowers(person.subject, server),
            link=secret,
            csrf=self._browser.csrf(person, f"connect {server}"),
        )

    async def _agree(self, request: Request) -> Response:
        """The user agreed: the link is spent, and the browser goes to the authorization server."""
        server = request.path_params["server"]
        try:
            form = await read_form(request)
            person = await self._browser.signed_in(request.scope)
            purpose = f"connect {server}"
            if person is None or not self._browser.check_csrf(
                request.scope, person, purpose, form.get("csrf")
            ):
                text = "Its page is too old, or came from elsewhere. Open the link again."
                return problem_page(403, "This form cannot be taken", text)
            at = self._at(server)
            if at is None:
                return _nothing()
            return await self._departed(request, at, server, person, form)
        except OAuthError as error:
            return problem_page(400, "This form cannot be taken", error.description)
        except UpstreamFailed as error:
            return _failed(server, error)
        except Unavailable:
            return _unavailable()

    async def _departed(
        self,
        request: Request,
        at: Connections,
        server: str,
        person: SignedIn,
        form: Mapping[str, str],
    ) -> Response:
        demanded: frozenset[str] = frozenset()
        if secret := form.get("link", ""):
            link = await asyncio.to_thread(self._one_time.take, LINK, secret, self._clock())
            if link is None or link.used is not None or link.payload["server"] != server:
                return problem_page(400, "This link cannot be used", _USED)
            if not _is_of(link.payload, person.subject):
                return await self._refuse_stranger(request, server, person, secret)
            demanded = frozenset(link.payload["scopes"])
        offer = await at.offer(person.subject, demanded)
        # What was shown is what is asked for: the server's metadata may have changed since.
        shown = (form.get("issuer"), scopes_in(form.get("scopes", "")))
        if shown != (offer.issuer, offer.scopes):
            text = "The server asks for something else than a moment ago. Open the page again."
            return problem_page(409, "This has changed", text)
        departure = await at.depart(person.subject, offer)
        detail = {"issuer": offer.issuer, "scope": " ".join(sorted(offer.scopes))}
        await self._record(request, "connect/start", server, person.subject, detail=detail)
        response = RedirectResponse(departure.url, 303, PRIVATE)
        self._set_cookie(response, departure.cookie, 600)
        return response

    async def _callback(self, request: Request) -> Response:
        """The answer of an authorization server, which only the browser and user that left may bring."""
        try:
            return await self._arrived(request)
        except Unavailable:
            return _unavailable()

    async def _arrived(self, request: Request) -> Response:
        secret = request.query_params.get("state", "")
        kept = await asyncio.to_thread(self._one_time.take, self._state_kind, secret, self._clock())
        if kept is None or kept.used is not None:
            return problem_page(400, "This answer cannot be used", "It was used, or has ended.")
        state, server = kept.payload, str(kept.payload["server"])
        person = await self._browser.signed_in(request.scope)
        cookie = request.cookies.get(self._cookie)
        why = (
            "nobody_signed_in"
            if person is None
            else self._check_state(state, person.subject, request.path_params["server"], cookie)
        )
        if person is None or why is not None:
            whose = Subject(state["iss"], state["sub"], "")
            await self._record(request, "connect/finish", server, whose, reason=why)
            text = "It came with another browser, user or server than the one it was begun with."
            return problem_page(403, "Nothing was connected", text)
        at = self._at(server)
        try:
            if at is None:
                raise UpstreamFailed("it takes no accounts any more")
            done = await at.arrive(person.subject, state, request.url.query)
        except UpstreamFailed as error:
            detail = {"problem": error.reason}
            await self._record(
                request, "connect/finish", server, person.subject, reason="failed", detail=detail
            )
            return _failed(server, error)
        await self._record(request, "connect/finish", server, person.subject, issued=done.facts)
        self._connected(server)
        response = page("connected", server=server, user=person.name or person.subject.name)
        self._set_cookie(response, "", 0)
        return response

    async def _refuse_stranger(
        self, request: Request, server: str, person: SignedIn, secret: str
    ) -> Response:
        """A link in the wrong hands is spent: whoever sent it cannot go on trying."""
        await asyncio.to_thread(self._one_time.take, LINK, secret, self._clock())
        await self._record(request, "connect/start", server, person.subject, reason="another_user")
        text = (
            f"It was made for another user than {person.subject.name}, and is spent now. Nothing was "
            "connected."
        )
        return problem_page(403, "This link is not yours", text)

    async def _record(
        self,
        request: Request,
        method: str,
        server: str,
        subject: Subject,
        *,
        reason: str | None = None,
        detail: Mapping[str, Any] | None = None,
        issued: Mapping[str, Any] | None = None,
    ) -> None:
        await self._recorder.record(
            method,
            subject=subject,
            server=server,
            source=source_of(request.scope, self._trusted_proxies),
            reason=reason,
            detail=detail,
            issued=issued,
        )

    def _set_cookie(self, response: Response, value: str, seconds: int) -> None:
        secure = self._public_url.startswith("https://")
        response.set_cookie(
            self._cookie, value, seconds, path="/", secure=secure, httponly=True, samesite="lax"
        )

    async def _document(self, request: Request) -> Response:
        return JSONResponse(client_document(self._public_url, self._servers()), headers=_PUBLISHED)

    async def _keys(self, request: Request) -> Response:
        try:
            return JSONResponse(await asyncio.to_thread(self._jwks), headers=_PUBLISHED)
        except Unavailable:
            return JSONResponse({"error": "temporarily_unavailable"}, 503)


_PUBLISHED = {"Cache-Control": "max-age=300", "X-Content-Type-Options": "nosniff"}


def _is_of(payload: Mapping[str, Any], subject: Subject) -> bool:
    return (payload["iss"], payload["sub"]) == (subject.iss, subject.sub)


def _nothing() -> Response:
    """Said to those who are signed in only: others learn of no server."""
    return problem_page(404, "Nothing to connect", "There is no such server here.")


def _failed(server: str, error: UpstreamFailed) -> Response:
    return problem_page(502, "Nothing was connected", f"{server}: {error.reason}.")


def _unavailable() -> Response:
    text = "The gateway cannot write its log or read its state. Try again shortly."
    return problem_page(503, "This is not possible now", text)
