"""The laptop issuer's login page and the code flow behind it: PKCE S256, exact redirect URIs, no more."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from agentgw.core.canonical import b64url
from agentgw.core.sign_in import OFFLINE
from agentgw.errors import OAuthError
from agentgw.http.form import read_form
from agentgw.http.page import PRIVATE, Pages, problem_page

CODE_SECONDS = 60
_ASKED = (
    "response_type", "client_id", "redirect_uri", "scope", "state", "nonce",
    "code_challenge", "code_challenge_method",
)  # fmt: skip
_PAGES = Pages(Path(__file__).parent / "pages")


@dataclass(frozen=True, slots=True)
class Client:
    """Who may send people here. `redirect_uris` are compared to the letter."""

    client_id: str
    secret: str = field(repr=False)
    redirect_uris: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Code:
    """What an authorization code stands for; `at` is when its user signed in, in Unix seconds."""

    client_id: str
    redirect_uri: str
    challenge: str
    user: str
    nonce: str | None
    at: int
    offline: bool


class LoginPage:
    """The authorization and token endpoints of `issuer`. `tokens` makes the answer to a code, or to a refresh
    token: each works once, for its client, while its user is not among the `disabled`."""

    def __init__(
        self,
        issuer: str,
        passwords: Mapping[str, str],
        clients: Mapping[str, Client],
        disabled: Collection[str],
        tokens: Callable[[Code], dict[str, Any]],
    ) -> None:
        self._issuer = issuer
        self._passwords = passwords
        self._clients = clients
        self._disabled = disabled
        self._tokens = tokens
        self._codes: dict[str, Code] = {}
        self._refresh: dict[str, Code] = {}

    def routes(self) -> list[Route]:
        """The routes, to be mounted at the root."""
        return [
            Route("/authorize", self.ask, methods=["GET"]),
            Route("/authorize", self.sign_in, methods=["POST"]),
            Route("/token", self.token, methods=["POST"]),
        ]

    async def ask(self, request: Request) -> Response:
        """Show the form, or say why not: to the client only where it is one of ours."""
        pairs = parse_qsl(request.url.query, keep_blank_values=True)
        asked = {name: value for name, value in pairs if name in _ASKED}
        return self._refused(asked) or self._form(asked)

    async def sign_in(self, request: Request) -> Response:
        """Check the password and send the browser back with a code."""
        try:
            form = await read_form(request)
        except OAuthError as refusal:
            return problem_page(400, "That did not work", refusal.description)
        asked = {name: value for name, value in form.items() if name in _ASKED}
        refused = self._refused(asked)
        if refused is not None:
            return refused
        user = form.get("user", "")
        password = self._passwords.get(user, "")
        if not password or user in self._disabled or not _same(form.get("password", ""), password):
            return self._form(asked, user)
        code, now = secrets.token_urlsafe(24), int(time.time())
        self._codes[code] = Code(
            asked["client_id"],
            asked["redirect_uri"],
            asked["code_challenge"],
            user,
            asked.get("nonce"),
            now,
            OFFLINE in asked["scope"].split(),
        )
        return self._back(asked, code=code)

    async def token(self, request: Request) -> Response:
        """Redeem a code or a refresh token, once (RFC 6749 sections 4.1.3 and 6, RFC 7636 section 4.6)."""
        try:
            form = await read_form(request)
            client = self._authenticate(request, form)
            code = self._given(form, client)
            answer = self._tokens(code)
            if code.offline:
                answer["refresh_token"] = token = secrets.token_urlsafe(32)
                self._refresh[token] = replace(code, nonce=None)
        except OAuthError as refusal:
            return JSONResponse({"error": refusal.error}, refusal.status)
        return JSONResponse(answer, headers={"Cache-Control": "no-store"})

    def _authenticate(self, request: Request, form: Mapping[str, str]) -> Client:
        client_id, secret = form.get("client_id", ""), form.get("client_secret", "")
        scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            try:
                pair = base64.b64decode(credentials, validate=True).decode("ascii")
            except ValueError:
                raise OAuthError("invalid_client", "no credentials", status=401) from None
            client_id, _, secret = map(unquote, pair.partition(":"))
        client = self._clients.get(client_id)
        if client is None or not _same(secret, client.secret):
            raise OAuthError("invalid_client", "no such client", status=401)
        return client

    def _given(self, form: Mapping[str, str], client: Client) -> Code:
        if form.get("grant_type") != "refresh_token":
            return self._redeem(form, client)
        found = self._refresh.pop(form.get("refresh_token", ""), None)
        if found is None or found.client_id != client.client_id or found.user in self._disabled:
            raise OAuthError("invalid_grant", "no such refresh token")
        return found

    def _redeem(self, form: Mapping[str, str], client: Client) -> Code:
        code = self._codes.pop(form.get("code", ""), None)
        proof = b64url(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        if (
            form.get("grant_type") != "authorization_code"
            or code is None
            or code.client_id != client.client_id
            or code.redirect_uri != form.get("redirect_uri")
            or not _same(code.challenge, proof)
            or time.time() > code.at + CODE_SECONDS
        ):
            raise OAuthError("invalid_grant", "no such code")
        return code

    def _refused(self, asked: Mapping[str, str]) -> Response | None:
        client = self._clients.get(asked.get("client_id", ""))
        if client is None or asked.get("redirect_uri") not in client.redirect_uris:
            return problem_page(
                400,
                "This link is wrong",
                "It names no client of this issuer, or not its own address.",
            )
        if asked.get("response_type") != "code":
            return self._back(asked, error="unsupported_response_type")
        if "openid" not in asked.get("scope", "").split():
            return self._back(asked, error="invalid_scope")
        if asked.get("code_challenge_method") != "S256" or not asked.get("code_challenge"):
            return self._back(asked, error="invalid_request")
        return None

    def _form(self, asked: Mapping[str, str], wrong: str | None = None) -> Response:
        back = urlsplit(asked["redirect_uri"])
        return _PAGES.page(
            "login",
            200 if wrong is None else 403,
            form_action=[f"{back.scheme}://{back.netloc}"],
            asked=asked,
            users=list(self._passwords),
            chosen=wrong,
            wrong=wrong is not None,
            client=asked["client_id"],
        )

    def _back(self, asked: Mapping[str, str], **answer: str) -> Response:
        """To the client, with `state` and `iss` (RFC 9207)."""
        if "state" in asked:
            answer["state"] = asked["state"]
        joint = "&" if "?" in asked["redirect_uri"] else "?"
        url = f"{asked['redirect_uri']}{joint}{urlencode({**answer, 'iss': self._issuer})}"
        return RedirectResponse(url, 303, PRIVATE)


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())
