"""`/account/disconnect`: a user lets go of an account that they connected at a tool server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from agentgw.core.connected import Account, Place, account_key
from agentgw.core.principal import Subject
from agentgw.core.recorder import Recorder
from agentgw.core.revocation import Kind
from agentgw.core.sign_in import SignedIn
from agentgw.errors import OAuthError, Unavailable, Unreadable, UpstreamFailed
from agentgw.http.browser import Browser
from agentgw.http.form import read_form
from agentgw.http.page import PRIVATE, page, problem_page
from agentgw.http.request import Networks, source_of, user_agent_of
from agentgw.http.sign_in import not_ours, signed_out

ACCOUNT = "/account"
DISCONNECT = "/account/disconnect"
REMEMBERED_SECONDS = 3600
"""How long workers are told of it: longer than any of them remembers a row or waits for an answer."""


class Rows(Protocol):
    """What the vault holds, without opening it; blocks on the disk and raises Unavailable."""

    def of(self, user_iss: str, user_sub: str) -> list[tuple[Place, float]]: ...


class Vault(Protocol):
    """The vault; calls block on the disk and raise Unavailable, `get` Unreadable too."""

    def get(self, place: Place) -> Account | None: ...
    def drop(self, place: Place) -> bool: ...


class Store(Protocol):
    """Where every worker looks for what was taken back; blocks on the disk and raises Unavailable."""

    def revoke_party(self, kind: Kind, key: str, until: int | None = None) -> None: ...


@dataclass(frozen=True, slots=True)
class ShownAccount:
    """A connected account as its user sees it; `key` names it in a form."""

    key: str
    server: str
    issuer: str
    since: str


class Disconnecting:
    """Shows a user's connected accounts and lets go of them.

    `vault` is opened for the one that is let go. `leave` has it ended at its own authorization server, or
    raises UpstreamFailed. `refresh` makes this process take on what the store holds. `clock` gives Unix
    seconds.
    """

    def __init__(
        self,
        browser: Browser,
        rows: Rows,
        vault: Callable[[], Vault],
        store: Store,
        leave: Callable[[Place, Account], Awaitable[None]],
        *,
        refresh: Callable[[], Awaitable[None]],
        recorder: Recorder,
        clock: Callable[[], float],
        trusted_proxies: Networks = (),
    ) -> None:
        self._browser = browser
        self._rows = rows
        self._vault = vault
        self._store = store
        self._leave = leave
        self._refresh = refresh
        self._recorder = recorder
        self._clock = clock
        self._trusted_proxies = trusted_proxies

    def routes(self) -> list[Route]:
        """The route of this face, to be mounted at the root."""
        return [Route(DISCONNECT, self.disconnect, methods=["POST"])]

    async def shown(self, user: Subject) -> list[ShownAccount]:
        """The accounts that this user has connected. Raises Unavailable."""
        return [
            ShownAccount(
                account_key(place, connected),
                place.server,
                place.issuer,
                datetime.fromtimestamp(connected, UTC).strftime("%Y-%m-%d %H:%M"),
            )
            for place, connected in await asyncio.to_thread(self._rows.of, user.iss, user.sub)
        ]

    async def disconnect(self, request: Request) -> Response:
        """Let go of one account of whoever posts the form of their own page; of others' there is none."""
        try:
            person = await self._browser.signed_in(request.scope)
            if person is None:
                return signed_out(ACCOUNT)
            form = await read_form(request)
            if not self._browser.check_csrf(request.scope, person, DISCONNECT, form.get("csrf")):
                return not_ours()
            wanted, user = form.get("account"), person.subject
            for place, connected in await asyncio.to_thread(self._rows.of, user.iss, user.sub):
                if account_key(place, connected) == wanted:
                    told = await self._let_go(request, person, place, wanted)
                    return page("disconnected", server=place.server, issuer=place.issuer, told=told)
        except OAuthError as refusal:
            return problem_page(400, "That did not work", refusal.description)
        except Unavailable:
            text = "See what is still connected, and disconnect it again."
            return problem_page(503, "Something went wrong", text, again=ACCOUNT)
        return RedirectResponse(ACCOUNT, 303, PRIVATE)

    async def _let_go(self, request: Request, person: SignedIn, place: Place, key: str) -> bool:
        """Forget it here and everywhere, on record; then whether its own server could be told."""
        try:
            account = await asyncio.to_thread(self._vault().get, place)
        except Unreadable:
            account = None
        await asyncio.to_thread(self._vault().drop, place)
        until = int(self._clock()) + REMEMBERED_SECONDS
        await asyncio.to_thread(self._store.revoke_party, "account", key, until)
        await self._refresh()
        detail = {"issuer": place.issuer, "effect": "disconnected"}
        await self._record(request, person, "connect/disconnect", place, detail)
        try:
            if account is None:
                raise UpstreamFailed("what was kept of it cannot be read")
            await self._leave(place, account)
        except UpstreamFailed as error:
            detail = {"issuer": place.issuer, "problem": error.reason}
            await self._record(request, person, "connect/revoke", place, detail, "failed")
            return False
        await self._record(request, person, "connect/revoke", place, {"issuer": place.issuer})
        return True

    async def _record(
        self,
        request: Request,
        person: SignedIn,
        method: str,
        place: Place,
        detail: Mapping[str, Any],
        reason: str | None = None,
    ) -> None:
        await self._recorder.record(
            method,
            subject=person.subject,
            server=place.server,
            client=user_agent_of(request.scope),
            source=source_of(request.scope, self._trusted_proxies),
            reason=reason,
            detail=detail,
        )
