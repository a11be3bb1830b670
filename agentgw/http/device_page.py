"""`/device`: where a user types the code that another device shows, and is asked what it may do."""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agentgw.core.authorize import Shown, read_query
from agentgw.core.device import Device, read_user_code
from agentgw.core.exchange_request import parse_scope
from agentgw.core.sign_in import SignedIn
from agentgw.errors import OAuthError, Unavailable
from agentgw.http.browser import Browser
from agentgw.http.consenting import FORM_BYTES, FORM_FIELDS, Consenting, NotPossible, Wish
from agentgw.http.device import ANSWERS, DEVICE_PAGE, KEPT_SECONDS, USER_CODES, Secrets
from agentgw.http.form import read_form
from agentgw.http.page import page, problem_page
from agentgw.http.public_clients import LoginClients
from agentgw.http.seal import Seal
from agentgw.http.sign_in import not_ours, signed_out

CONSENT = f"{DEVICE_PAGE}/consent"
GUESSES = 10
"""Wrong codes that one browser session may type (RFC 8628 section 5.1)."""
_SESSIONS = 10_000


class DevicePage:
    """What the user meets. `clock` gives Unix seconds."""

    def __init__(
        self,
        browser: Browser,
        seal: Seal,
        *,
        clients: LoginClients,
        kept: Secrets,
        consenting: Consenting,
        clock: Callable[[], float],
    ) -> None:
        self._browser = browser
        self._seal = seal
        self._clients = clients
        self._kept = kept
        self._consenting = consenting
        self._clock = clock
        self._wrong: OrderedDict[str, int] = OrderedDict()

    def routes(self) -> list[Route]:
        """The routes of this face, to be mounted at the root."""
        return [
            Route(DEVICE_PAGE, self.show, methods=["GET"]),
            Route(DEVICE_PAGE, self.enter, methods=["POST"]),
            Route(CONSENT, self.answer, methods=["POST"]),
        ]

    async def show(self, request: Request) -> Response:
        """The form for the code, filled in where the link brought it."""
        return await _told(self._show(request))

    async def enter(self, request: Request) -> Response:
        """Take the code, and ask what its device may do."""
        return await _told(self._enter(request))

    async def answer(self, request: Request) -> Response:
        """Take the user's answer for the device to find."""
        return await _told(self._answer(request))

    async def _show(self, request: Request) -> Response:
        typed = read_query(request.scope.get("query_string", b"")).get("user_code", "")
        user_code = read_user_code(typed) or ""
        person = await self._browser.signed_in(request.scope)
        if person is None:
            then = f"{DEVICE_PAGE}?user_code={quote(user_code)}" if user_code else DEVICE_PAGE
            return await self._browser.send_to_sign_in(request.scope, then)
        return self._form(person, user_code)

    def _form(self, person: SignedIn, user_code: str, problem: str = "") -> Response:
        csrf = self._browser.csrf(person, DEVICE_PAGE)
        status = 400 if problem else 200
        return page(
            "device", status, person=person, user_code=user_code, problem=problem, csrf=csrf
        )

    async def _enter(self, request: Request) -> Response:
        person = await self._browser.signed_in(request.scope)
        if person is None:
            return signed_out(DEVICE_PAGE)
        form = await read_form(request)
        if not self._browser.check_csrf(request.scope, person, DEVICE_PAGE, form.get("csrf")):
            return not_ours()
        if self._wrong.get(person.sid, 0) >= GUESSES:
            return problem_page(429, "Too many wrong codes", "Sign out, sign in, and try again.")
        user_code = read_user_code(form.get("user_code", ""))
        device = None if user_code is None else await self._waiting(user_code)
        if user_code is None or device is None:
            self._count(person.sid)
            return self._form(person, "", "No device waits for this code.")
        wish = await self._wish(device)
        inner = json.dumps([user_code, wish.client.agent]).encode()
        sealed = self._seal.seal("device", inner, _whose(person))
        return await self._consenting.ask(
            person,
            wish,
            CONSENT,
            user_code=user_code,
            request=sealed,
            csrf=self._browser.csrf(person, CONSENT),
        )

    async def _answer(self, request: Request) -> Response:
        person = await self._browser.signed_in(request.scope)
        if person is None:
            return signed_out(DEVICE_PAGE)
        form = await read_form(request, fields=FORM_FIELDS, limit=FORM_BYTES)
        if not self._browser.check_csrf(request.scope, person, CONSENT, form.get("csrf")):
            return not_ours()
        sealed = self._seal.open("device", form.get("request", ""), _whose(person))
        if sealed is None:
            return not_ours()
        user_code, agent = json.loads(sealed)
        device, now = await self._waiting(user_code), self._clock()
        taken = await asyncio.to_thread(self._kept.take, USER_CODES, user_code, now)
        if device is None or taken is None or taken.used is not None:
            return self._form(person, "", "No device waits for this code any more.")
        wish = await self._wish(device)
        if wish.client.agent != agent:
            raise NotPossible("Its program is another agent by now. Begin again on the device.")
        if form.get("answer") != "allow":
            await self._consenting.deny(request, person, wish)
            return await self._tell(user_code, device, None)
        login = await self._consenting.allow(request, person, wish, form)
        if login is None:
            raise Shown("the page was not filled in")
        return await self._tell(user_code, device, login.jti)

    async def _tell(self, user_code: str, device: Device, login: str | None) -> Response:
        exp = device.until + KEPT_SECONDS
        await asyncio.to_thread(self._kept.put, ANSWERS, user_code, {"login": login}, exp)
        if login is None:
            return problem_page(200, "You said no", "The device was told so. Close this page.")
        return problem_page(200, "You are done", "The device goes on by itself. Close this page.")

    async def _waiting(self, user_code: str) -> Device | None:
        now = self._clock()
        kept = await asyncio.to_thread(self._kept.look, USER_CODES, user_code, now)
        if kept is None or kept.used is not None:
            return None
        device = Device(**kept.payload)
        return device if device.until > now else None

    async def _wish(self, device: Device) -> Wish:
        client = await self._clients.find(device.client_id)
        if client is None:
            raise NotPossible("Its client is not known here any more.")
        return Wish(client, device.resource, parse_scope(device.scopes), None)

    def _count(self, sid: str) -> None:
        self._wrong[sid] = self._wrong.get(sid, 0) + 1
        self._wrong.move_to_end(sid)
        if len(self._wrong) > _SESSIONS:
            self._wrong.popitem(last=False)


async def _told(answer: Awaitable[Response]) -> Response:
    try:
        return await answer
    except NotPossible as error:
        return problem_page(403, "This agent cannot act for you", error.reason)
    except (Shown, OAuthError) as error:
        reason = error.reason if isinstance(error, Shown) else error.description
        return problem_page(400, "That did not work", f"{reason[:1].upper()}{reason[1:]}.")
    except Unavailable:
        return problem_page(503, "This is not possible now", "Nothing was done: try again.")


def _whose(person: SignedIn) -> str:
    return f"{person.sid}\0{person.subject.iss}\0{person.subject.sub}"
