"""The browser in front of us: its session cookie, the way to the sign-in page, forms that are its own."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import astuple
from typing import Any, Protocol
from urllib.parse import urlsplit

import orjson
from starlette.responses import RedirectResponse, Response

from agentgw.core.canonical import b64url
from agentgw.core.one_time import Kept
from agentgw.core.sign_in import (
    FLOW_SECONDS,
    Flow,
    Person,
    Proven,
    SignedIn,
    in_session,
    read_person,
    to_payload,
)
from agentgw.errors import UpstreamFailed
from agentgw.http.page import PRIVATE, problem_page
from agentgw.http.request import Scope
from agentgw.http.seal import Seal

SESSIONS = "browser_session"
"""The kind under which sessions are kept (registry/one_time.py)."""
FLOWS = 8
FLOW_BYTES = 2600
"""Sign-ins of one browser that may be under way: as many as fit a cookie of 4096 bytes when sealed."""
THEN_LIMIT = 2000
_LOCAL = re.compile(r"/[A-Za-z0-9\-._~:/?@!$&'()*+,;=%\[\]|]*")


class Secrets(Protocol):
    """Where sessions are kept by hash; calls block on the disk and raise Unavailable."""

    def put(self, kind: str, secret: str, payload: Mapping[str, Any], exp: int) -> None: ...

    def look(self, kind: str, secret: str, now: float) -> Kept | None: ...

    def take(self, kind: str, secret: str, now: float) -> Kept | None: ...


class RelyingParty(Protocol):
    """Where people sign in. Both raise UpstreamFailed while it cannot be used."""

    @property
    def issuer(self) -> str: ...

    @property
    def client_id(self) -> str: ...

    async def authorization_url(self, flow: Flow) -> str: ...

    async def finish(self, answer: Mapping[str, str], flow: Flow) -> Proven:
        """Raises SignInRefused and InvalidToken too."""


class Browser:
    """Sessions and forms of browsers at `public_url`. `clock` gives Unix seconds, `random` bytes.

    `party` is where people sign in now, None while `login` is off; `life` is seconds of a session, for
    one that is renewable or not. `ended` tells of a session's `sid` that the provider ended the sign-in.
    Cookies are sealed and `__Host-`; where `public_url` is plain http (a laptop), browsers would not
    keep those, so they go without prefix and Secure.
    """

    def __init__(
        self,
        public_url: str,
        seal: Seal,
        secrets: Secrets,
        party: Callable[[], RelyingParty | None],
        life: Callable[[bool], int],
        clock: Callable[[], float],
        random: Callable[[int], bytes],
        ended: Callable[[str], bool] = lambda sid: False,
    ) -> None:
        self._public_url = public_url
        parts = urlsplit(public_url)
        self._secure = parts.scheme == "https"
        # Cookies know no ports: two gateways of one laptop must not overwrite each other's.
        name = "__Host-agentgw" if self._secure else f"agentgw-{parts.port or 80}"
        self.session_cookie, self.flow_cookie = name, f"{name}-signin"
        self._seal = seal
        self._secrets = secrets
        self.party = party
        self._life = life
        self._clock = clock
        self._random = random
        self._ended = ended

    async def signed_in(self, scope: Scope) -> SignedIn | None:
        """Who is signed in at the browser that sent this request; None for nobody. Raises Unavailable."""
        secret = self._session_secret(scope)
        if secret is None:
            return None
        kept = await asyncio.to_thread(self._secrets.look, SESSIONS, secret, self._clock())
        if kept is None or kept.used is not None:
            return None
        party = self.party()
        if party is None or kept.payload["issuer"] != party.issuer:
            # Users sign in elsewhere now, or nowhere.
            return None
        if "at" not in kept.payload or self._ended(kept.payload["sid"]):
            return None
        return in_session(read_person(kept.payload["person"]), {**kept.payload, "exp": kept.exp})

    async def send_to_sign_in(self, scope: Scope, then: str, online: bool = False) -> Response:
        """To where people sign in, and from there back to `then`: a path of ours with its query.

        `online` asks for no refresh token.

        Where that cannot be, a page that says why. Raises Unavailable.
        """
        if not is_local(then):
            return problem_page(
                400, "This link cannot be used", "It is too long, or no link of ours."
            )
        if not self._secure and not self._came_by_public_url(scope):
            # The cookies of localhost are not those of 127.0.0.1, where the issuer sends people back.
            return RedirectResponse(self._public_url + then, 303, PRIVATE)
        party = self.party()
        if party is None:
            return problem_page(
                404, "Nobody signs in here", "This gateway has no login configured."
            )
        state, nonce, verifier = (b64url(self._random(size)) for size in (32, 16, 32))
        exp = int(self._clock()) + FLOW_SECONDS
        flow = Flow(party.issuer, state, nonce, verifier, then, exp, online)
        try:
            url = await party.authorization_url(flow)
        except UpstreamFailed:
            return problem_page(
                503,
                "Signing in is not possible now",
                "The identity provider cannot be used.",
                again=then,
            )
        response = RedirectResponse(url, 303, PRIVATE)
        self._keep_flows(response, [*self.flows(scope), flow])
        return response

    def csrf(self, person: SignedIn, purpose: str) -> str:
        """The token of a form that this person may post for `purpose`, in this session only."""
        return self._seal.seal("csrf", b"", f"{person.sid}\0{purpose}")

    def check_csrf(self, scope: Scope, person: SignedIn, purpose: str, token: str | None) -> bool:
        """Whether a POST came of a page that this session was shown: its token, and the browser's word."""
        for name, value in scope["headers"]:
            if name == b"origin" and value.decode("latin-1") != self._public_url:
                return False
            if name == b"sec-fetch-site" and value != b"same-origin":
                return False
        return (
            token is not None
            and self._seal.open("csrf", token, f"{person.sid}\0{purpose}") is not None
        )

    async def open_session(
        self,
        scope: Scope,
        person: Person,
        issuer: str,
        response: Response,
        renewable: bool = False,
    ) -> str:
        """Give the browser a session that never was before; one it had ends. Raises Unavailable.

        `issuer` is where the person signed in: the session ends once people sign in elsewhere.
        `renewable` says that the issuer can be asked again who they are. Returns its `sid`.
        """
        await self._end(scope)
        secret, now = b64url(self._random(32)), int(self._clock())
        sid = b64url(self._random(16))
        kept = {
            "person": to_payload(person),
            "issuer": issuer,
            "sid": sid,
            "at": now,
            "renewable": renewable,
        }
        exp = now + self._life(renewable)
        await asyncio.to_thread(self._secrets.put, SESSIONS, secret, kept, exp)
        self._set(
            response, self.session_cookie, self._seal.seal("session", secret.encode()), exp - now
        )
        return sid

    async def close_session(self, scope: Scope, response: Response) -> None:
        """End the session; a copy of its cookie opens nothing either. Raises Unavailable."""
        await self._end(scope)
        self._set(response, self.session_cookie, "", 0)

    def flows(self, scope: Scope) -> list[Flow]:
        """The sign-ins that this browser has under way, the oldest first."""
        cookie = _cookies(scope).get(self.flow_cookie)
        inner = None if cookie is None else self._seal.open("flows", cookie)
        if inner is None:
            return []
        now = self._clock()
        return [flow for flow in (Flow(*each) for each in orjson.loads(inner)) if flow.exp > now]

    def drop_flow(self, scope: Scope, flow: Flow, response: Response) -> None:
        """Let the browser forget a sign-in that is done."""
        left = [each for each in self.flows(scope) if each.state != flow.state]
        self._keep_flows(response, left)

    def _came_by_public_url(self, scope: Scope) -> bool:
        host = urlsplit(self._public_url).netloc.encode("ascii")
        return all(value.lower() == host for name, value in scope["headers"] if name == b"host")

    async def _end(self, scope: Scope) -> None:
        secret = self._session_secret(scope)
        if secret is not None:
            await asyncio.to_thread(self._secrets.take, SESSIONS, secret, self._clock())

    def _session_secret(self, scope: Scope) -> str | None:
        cookie = _cookies(scope).get(self.session_cookie)
        secret = None if cookie is None else self._seal.open("session", cookie)
        return None if secret is None else secret.decode("ascii")

    def _keep_flows(self, response: Response, flows: list[Flow]) -> None:
        flows = flows[-FLOWS:]
        while len(inner := orjson.dumps([_listed(flow) for flow in flows])) > FLOW_BYTES:
            flows = flows[1:]
        if flows:
            self._set(response, self.flow_cookie, self._seal.seal("flows", inner), FLOW_SECONDS)
        else:
            self._set(response, self.flow_cookie, "", 0)

    def _set(self, response: Response, name: str, value: str, seconds: int) -> None:
        response.set_cookie(
            name,
            value,
            max_age=seconds,
            path="/",
            secure=self._secure,
            httponly=True,
            samesite="lax",
        )


def is_local(then: str) -> bool:
    """Whether `then` is a path of ours with its query, of at most 2,000 characters, that no browser
    can take for a URL of another host."""
    return (
        len(then) <= THEN_LIMIT and _LOCAL.fullmatch(then) is not None and not then.startswith("//")
    )


def _listed(flow: Flow) -> list[str | int | bool]:
    return list(astuple(flow))


def _cookies(scope: Scope) -> dict[str, str]:
    """The cookies by name; one that stands twice is none, since nobody knows which is ours."""
    found: dict[str, str] = {}
    twice: set[str] = set()
    for name, value in scope["headers"]:
        if name != b"cookie":
            continue
        for pair in value.decode("latin-1").split(";"):
            key, separator, text = pair.strip().partition("=")
            if separator and key in found:
                twice.add(key)
            elif separator:
                found[key] = text
    return {key: text for key, text in found.items() if key not in twice}
