"""`/account`: which agents may act for me, what they did lately, and a way to stop them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from agentgw.core.login_grants import Standing
from agentgw.core.principal import Issued, Subject
from agentgw.core.recorder import Recorder
from agentgw.core.sign_in import SignedIn
from agentgw.errors import OAuthError, Unavailable
from agentgw.http.browser import Browser
from agentgw.http.disconnect import ACCOUNT, DISCONNECT, ShownAccount
from agentgw.http.form import read_form
from agentgw.http.page import PRIVATE, page, problem_page
from agentgw.http.request import Networks, source_of, user_agent_of
from agentgw.http.sign_in import SIGN_OUT, not_ours, signed_out

STOP = "/account/stop"
LATELY = 30
"""Events shown."""

_METHODS = {
    "connect/disconnect": "disconnected",
    "connect/finish": "connected",
    "connect/revoke": "had the account ended at",
    "connect/start": "began to connect",
    "login/consent": "were asked to let in",
    "login/recheck": "changed groups at the identity provider",
    "login/sign-in": "signed in",
    "login/stop": "stopped",
    "oauth/token": "got a token for",
    "tools/call": "used",
    "tools/list": "listed tools",
}

Event = tuple[Mapping[str, Any], Mapping[str, Any] | None]
"""A decision record and its outcome record, if there is one."""


class Logins(Protocol):
    """The ledger. Raises Unavailable."""

    async def logins(self, subject: Subject, now: int) -> list[Standing]: ...


class RevocationStore(Protocol):
    """Where revocations are kept; its call blocks on the disk. Raises Unavailable."""

    def revoke_token(self, key: str, until: int) -> int: ...


@dataclass(frozen=True, slots=True)
class Shown:
    """A login as its user sees it; times are text.

    `tools` are those consented to, `servers` those of which all else may be used too, `hands_to` the
    agents it may pass work to; None where no consent limits them. `pending` says that the client has not
    taken up yet what was allowed.
    """

    jti: str
    agent: str
    client: str
    since: str
    until: str
    tools: tuple[str, ...] | None
    servers: tuple[str, ...] | None
    hands_to: tuple[str, ...] | None
    pending: bool


@dataclass(frozen=True, slots=True)
class Deed:
    """Something an agent did, or was not let do."""

    time: str
    who: str
    what: str
    result: str


class Account:
    """The account page.

    `recent(subject, count)` gives the last events of a user, blocking on the disk; `connected` gives the
    accounts that a user connected, or raises Unavailable. `refresh` makes this
    process take on what the store holds. `clock` gives Unix seconds.
    """

    def __init__(
        self,
        browser: Browser,
        logins: Logins,
        store: RevocationStore,
        *,
        recent: Callable[[Subject, int], Sequence[Event]],
        connected: Callable[[Subject], Awaitable[Sequence[ShownAccount]]],
        refresh: Callable[[], Awaitable[None]],
        recorder: Recorder,
        clock: Callable[[], float],
        trusted_proxies: Networks = (),
    ) -> None:
        self._browser = browser
        self._logins = logins
        self._store = store
        self._recent = recent
        self._connected = connected
        self._refresh = refresh
        self._recorder = recorder
        self._clock = clock
        self._trusted_proxies = trusted_proxies
        # Reading logs back is the dearest thing here: one at a time.
        self._reading = asyncio.Lock()

    def routes(self) -> list[Route]:
        """The routes of this face, to be mounted at the root."""
        return [
            Route(ACCOUNT, self.show, methods=["GET"]),
            Route(STOP, self.stop, methods=["POST"]),
        ]

    async def show(self, request: Request) -> Response:
        """The page of whoever is signed in; others sign in first."""
        try:
            person = await self._browser.signed_in(request.scope)
            if person is None:
                return await self._browser.send_to_sign_in(request.scope, ACCOUNT)
            return await self._page(person)
        except Unavailable:
            return _not_now()

    async def stop(self, request: Request) -> Response:
        """Revoke one login of the user, or all: what came of it ends within a second."""
        try:
            person = await self._browser.signed_in(request.scope)
            if person is None:
                return signed_out(ACCOUNT)
            form = await read_form(request)
            if not self._browser.check_csrf(request.scope, person, STOP, form.get("csrf")):
                return not_ours()
            wanted = form.get("login")
            for login, _ in await self._logins.logins(person.subject, int(self._clock())):
                if wanted in ("all", login.jti):
                    await self._stop(request, person, login)
        except OAuthError as refusal:
            return problem_page(400, "That did not work", refusal.description)
        except Unavailable:
            return problem_page(
                503,
                "Something went wrong",
                "See what still runs, and stop it again.",
                again=ACCOUNT,
            )
        return RedirectResponse(ACCOUNT, 303, PRIVATE)

    async def _page(self, person: SignedIn) -> Response:
        now = int(self._clock())
        mine = await self._logins.logins(person.subject, now)
        try:
            async with self._reading:
                events = await asyncio.to_thread(self._recent, person.subject, LATELY)
        except OSError:
            raise Unavailable("the log cannot be read") from None
        return page(
            "account",
            person=person,
            logins=[shown(login) for login in mine],
            accounts=await self._connected(person.subject),
            deeds=[deed(*event) for event in events],
            disconnect_csrf=self._browser.csrf(person, DISCONNECT),
            stop_csrf=self._browser.csrf(person, STOP),
            sign_out_csrf=self._browser.csrf(person, SIGN_OUT),
        )

    async def _stop(self, request: Request, person: SignedIn, login: Issued) -> None:
        heirs = await asyncio.to_thread(self._store.revoke_token, login.jti, login.exp)
        await self._refresh()
        await self._recorder.record(
            "login/stop",
            txn=login.txn,
            subject=person.subject,
            chain=login.chain,
            client=user_agent_of(request.scope),
            source=source_of(request.scope, self._trusted_proxies),
            detail={"login": login.jti, "effect": "revoked", "descendants": heirs},
        )


def shown(standing: Standing) -> Shown:
    """A login in words."""
    login = standing.entry
    hop, consent = login.chain[0], login.consent
    return Shown(
        login.jti,
        hop.agent or _agent_name(hop.id),
        login.presenter,
        _moment(login.iat),
        _moment(login.exp),
        None if consent is None else tuple(sorted(consent.tools)),
        None if consent is None else tuple(sorted(consent.servers)),
        None if consent is None else tuple(sorted(consent.hand_to)),
        standing.pending,
    )


def deed(decision: Mapping[str, Any], outcome: Mapping[str, Any] | None) -> Deed:
    """An event in words: what the user may know of it, and nothing of how we decide."""
    agents = " for ".join(_agent_name(str(hop.get("id"))) for hop in decision.get("chain") or ())
    method = str(decision.get("method"))
    target = "/".join(str(each) for each in (decision.get("server"), decision.get("name")) if each)
    own = method.startswith("login/") or (method in _METHODS and not agents)
    object_ = agents if method.startswith("login/") else _agent_name(target)
    what = f"{_METHODS.get(method, method)} {object_}".strip()
    if decision.get("decision") != "allow":
        result = "refused"
    elif own or (outcome is not None and outcome.get("outcome") == "ok"):
        result = "done"
    else:
        result = "allowed" if outcome is None else str(outcome.get("outcome"))
    who = "you" if own else agents
    return Deed(str(decision.get("time", ""))[:19].replace("T", " "), who, what, result)


def _agent_name(agent_id: str) -> str:
    return agent_id.rpartition("/a2a/")[2] if "/a2a/" in agent_id else agent_id


def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def _not_now() -> Response:
    return problem_page(503, "This is not possible now", "Nothing was done: try again.")
