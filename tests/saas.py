"""A tool server with accounts of its own: an authorization server and an MCP server, in a thread of the test.

It lies on demand. Users connect by the code flow with PKCE; whoever presents an access token is answered
with the notes of just that account.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import httpx2
import jwt
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from agentgw.core.principal import Subject
from agentgw.core.sign_in import Person
from agentgw.http.browser import Browser
from agentgw.http.seal import Seal
from agentgw.registry.one_time import OneTime
from agentgw.registry.schema import open_database
from agentgw.sts.keys import KeyRing
from tests.harness import MODERN, NO_TLS, Gateway, Issuer, allow_all, free_port, gateway, wait_for

SECRET = "saas-client-secret"
Twist = Callable[[dict[str, Any]], None]


def honest(document: dict[str, Any]) -> None:
    """Changes nothing."""


@dataclass
class Grant:
    """What one account agreed to, and the tokens that came of it."""

    account: str
    client_id: str
    scopes: list[str]
    resource: str
    revoked: bool = False


class Saas:
    """Runs at `url`; `mcp` is the tool server. `forms` and `seen` are what its two halves were sent.

    `prm`, `metadata`, `callback` and `tokens` change what it says before it leaves; `says` and `demands` make
    what a call is answered with, and the scope it demands, of the credential it came with.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.mcp = f"{self.url}/mcp"
        self.reset()
        self.grants: dict[str, Grant] = {}
        self.refresh: dict[str, Grant] = {}
        self.spent: dict[str, Grant] = {}
        self.codes: dict[str, tuple[Grant, str, str]] = {}
        self.forms: list[dict[str, str]] = []
        self.seen: list[tuple[str, str | None, dict[str, Any]]] = []
        self.asked: list[str] = []
        self.cookies: list[str | None] = []
        self.given_up: list[dict[str, str]] = []
        routes = [
            Route("/.well-known/oauth-protected-resource/mcp", self._prm),
            Route("/.well-known/oauth-protected-resource", self._nothing),
            Route("/.well-known/oauth-authorization-server", self._metadata),
            Route("/authorize", self._authorize),
            Route("/token", self._token, methods=["POST"]),
            Route("/revoke", self._revoke, methods=["POST"]),
            Route("/mcp", self._mcp, methods=["POST", "GET", "DELETE"]),
        ]
        config = uvicorn.Config(
            Starlette(routes=routes), port=self.port, log_config=None, lifespan="off"
        )
        self._server = uvicorn.Server(config)
        self._runs: Any = None

    def reset(self) -> None:
        """Be honest again, with a life of an hour for access tokens."""
        self.prm: Twist = honest
        self.metadata: Twist = honest
        self.callback: Twist = honest
        self.tokens: Twist = honest
        self.challenge: str | None = None
        self.wanted: frozenset[str] = frozenset()
        self.life: int | None = 3600
        self.slow = 0.0
        self.endless = False
        self.refuse_all = False
        self.says: Callable[[str], str] | None = None
        self.demands: Callable[[str], str] | None = None

    def start(self) -> Saas:
        """Listen."""
        import threading

        self._runs = threading.Thread(target=self._server.run, daemon=True)
        self._runs.start()
        wait_for(lambda: self._server.started, "the SaaS server to listen")
        return self

    def stop(self) -> None:
        """Stop listening."""
        self._server.should_exit = True
        self._runs.join(10)

    def revoke(self, account: str) -> None:
        """Take back all that an account agreed to, as on its settings page."""
        for grant in [*self.grants.values(), *self.refresh.values()]:
            grant.revoked = grant.revoked or grant.account == account

    def expire(self) -> None:
        """Let every access token end now, whatever was said of its life; refresh tokens stay."""
        self.grants.clear()

    def bearers(self) -> set[str]:
        """All credentials that reached the tool server."""
        return {sent for _, sent, _ in self.seen if sent is not None}

    async def _prm(self, request: Request) -> Response:
        self.asked.append(str(request.url.path))
        document = {
            "resource": self.mcp,
            "authorization_servers": [self.url],
            "scopes_supported": ["notes.read"],
        }
        self.prm(document)
        return JSONResponse(document)

    async def _nothing(self, request: Request) -> Response:
        self.asked.append(str(request.url.path))
        return Response(status_code=404)

    async def _metadata(self, request: Request) -> Response:
        self.asked.append(str(request.url.path))
        document = {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "revocation_endpoint": f"{self.url}/revoke",
            "response_types_supported": ["code"],
            "grant_types_supported": ["authorization_code", "refresh_token"],
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": True,
            "client_id_metadata_document_supported": True,
        }
        self.metadata(document)
        return JSONResponse(document)

    async def _authorize(self, request: Request) -> Response:
        """The user is whoever the test's browser says: its own sign-in is none of ours."""
        asked = dict(request.query_params)
        assert asked["code_challenge_method"] == "S256" and asked["response_type"] == "code"
        account = request.headers["x-account"]
        code = secrets.token_urlsafe(16)
        grant = Grant(
            account, asked["client_id"], asked.get("scope", "").split(), asked["resource"]
        )
        self.codes[code] = (grant, asked["code_challenge"], asked["redirect_uri"])
        answer = {"code": code, "state": asked["state"], "iss": self.url}
        self.callback(answer)
        return RedirectResponse(f"{asked['redirect_uri']}?{urlencode(answer)}", 302)

    async def _token(self, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode()))
        self.forms.append(form)
        self.cookies.append(request.headers.get("cookie"))
        client = self._client(request.headers.get("authorization"), form)
        if client is None:
            return JSONResponse({"error": "invalid_client"}, 401)
        if self.slow:
            await asyncio.sleep(self.slow)
        grant = self._granted(form)
        if grant is None or grant.revoked or grant.client_id != client:
            return JSONResponse({"error": "invalid_grant"}, 400)
        access, refresh = f"at-{secrets.token_urlsafe(16)}", f"rt-{secrets.token_urlsafe(16)}"
        self.grants[access], self.refresh[refresh] = grant, grant
        answer = {
            "access_token": access,
            "token_type": "Bearer",
            "expires_in": self.life,
            "refresh_token": refresh,
            "scope": " ".join(grant.scopes),
        }
        self.tokens(answer)
        given = {name: value for name, value in answer.items() if value is not None}
        return JSONResponse(given, headers={"Set-Cookie": f"account={grant.account}; Path=/"})

    async def _revoke(self, request: Request) -> Response:
        """RFC 7009: a client gives up its own grant."""
        form = dict(parse_qsl((await request.body()).decode()))
        self.given_up.append(form)
        client = self._client(request.headers.get("authorization"), form)
        grant = self.refresh.get(form["token"]) or self.grants.get(form["token"])
        if client is None:
            return JSONResponse({"error": "invalid_client"}, 401)
        if grant is not None and grant.client_id == client:
            grant.revoked = True
        return Response()

    def _granted(self, form: Mapping[str, str]) -> Grant | None:
        if form["grant_type"] == "refresh_token":
            token = form["refresh_token"]
            if token in self.spent:
                # Reuse: the whole family ends (OAuth 2.1 section 4.3.1).
                self.spent[token].revoked = True
                return None
            grant = self.refresh.pop(token, None)
            if grant is not None:
                self.spent[token] = grant
            return grant
        grant, challenge, redirect_uri = self.codes.pop(form["code"], (None, "", ""))
        made = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest())
        if made.rstrip(b"=").decode() != challenge or form["redirect_uri"] != redirect_uri:
            return None
        return grant if grant is None or grant.resource == form["resource"] else None

    def _client(self, authorization: str | None, form: Mapping[str, str]) -> str | None:
        if authorization is not None:
            expected = base64.b64encode(f"gateway:{SECRET}".encode()).decode()
            return "gateway" if authorization == f"Basic {expected}" else None
        assertion = form.get("client_assertion")
        if assertion is None:
            return None
        client_id = form["client_id"]
        with httpx2.Client(transport=httpx2.HTTPTransport(verify=NO_TLS)) as client:
            document = client.get(client_id).json()
            assert document["client_id"] == client_id
            keys = client.get(document["jwks_uri"]).json()
        key = jwt.PyJWK(keys["keys"][0]).key
        claims = jwt.decode(assertion, key, ["ES256"], audience=self.url)
        return client_id if claims["sub"] == claims["iss"] == client_id else None

    async def _mcp(self, request: Request) -> Response:
        message = await request.json() if request.method == "POST" else {"method": request.method}
        sent = request.headers.get("authorization")
        self.seen.append((message.get("method", ""), sent, message))
        grant = self.grants.get(_token(sent))
        if grant is None or grant.revoked or self.refuse_all:
            where = f"{self.url}/.well-known/oauth-protected-resource/mcp"
            challenge = self.challenge or f'Bearer resource_metadata="{where}"'
            return Response(status_code=401, headers={"www-authenticate": challenge})
        if message.get("method") == "tools/call" and not self.wanted <= set(grant.scopes):
            scope = " ".join(sorted(self.wanted))
            scope = scope if self.demands is None else self.demands(_token(sent))
            challenge = f'Bearer error="insufficient_scope", scope="{scope}"'
            return Response(status_code=403, headers={"www-authenticate": challenge})
        if self.endless and message.get("method") == "tools/call":
            return StreamingResponse(_endless(), media_type="text/event-stream")
        answer = _answer(message, grant)
        if self.says is not None and message.get("method") == "tools/call":
            answer["result"]["content"][0]["text"] = self.says(_token(sent))
        return JSONResponse({"jsonrpc": "2.0", "id": message.get("id"), **answer})


def _token(line: str | None) -> str:
    return (line or "").removeprefix("Bearer ")


async def _endless() -> AsyncIterator[bytes]:
    """An answer that begins, and never comes."""
    yield b": working\n\n"
    await asyncio.Event().wait()


def _answer(message: Mapping[str, Any], grant: Grant) -> dict[str, Any]:
    lasting = {"resultType": "complete", "ttlMs": 0, "cacheScope": "public"}
    match message.get("method"):
        case "server/discover":
            about = {"supportedVersions": [MODERN], "capabilities": {"tools": {}}}
            return {"result": {**lasting, **about}}
        case "initialize":
            info = {"name": "saas", "version": "1"}
            about = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}}
            return {"result": {**about, "serverInfo": info}}
        case "tools/list":
            tool = {"name": "notes", "description": "Notes.", "inputSchema": {"type": "object"}}
            return {"result": {**lasting, "tools": [tool]}}
        case "tools/call":
            text = {"type": "text", "text": f"the notes of {grant.account}"}
            return {"result": {"resultType": "complete", "content": [text]}}
    return {"error": {"code": -32601, "message": "Method not found"}}


class _Form(HTMLParser):
    """The hidden inputs of a page's one form."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.values: dict[str, str] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "input" and found.get("type") == "hidden":
            self.values[found["name"] or ""] = found["value"] or ""


class UserBrowser:
    """A browser in which `user` is signed in at the gateway. Cookies are its own."""

    def __init__(self, gw: Gateway, user: str, alias: str = "laptop") -> None:
        self.gw = gw
        self.user = user
        self.http = httpx2.Client(transport=httpx2.HTTPTransport(verify=NO_TLS), timeout=30)
        name, value = asyncio.run(_session(gw, Subject(alias, user, f"{alias}|{user}")))
        self.http.cookies.set(name, value, domain="127.0.0.1")

    def open(self, url: str) -> httpx2.Response:
        """Go to a page."""
        return self.http.get(url)

    def agree(self, page: httpx2.Response) -> httpx2.Response:
        """Press the button of a page that was opened."""
        assert page.status_code == 200, page.text
        headers = {"origin": self.gw.url, "sec-fetch-site": "same-origin"}
        where = str(page.url).partition("?")[0]
        return self.http.post(where, data=_Form(page.text).values, headers=headers)

    def sign_in_there(self, answer: httpx2.Response, account: str) -> str:
        """Follow to the authorization server and sign in as `account`; the URL it sends back to."""
        assert answer.status_code == 303, answer.text
        there = self.http.get(answer.headers["location"], headers={"x-account": account})
        assert there.status_code == 302, there.text
        return str(there.headers["location"])

    def connect(self, link: str, account: str | None = None) -> httpx2.Response:
        """The whole way: page, button, sign-in there, and back."""
        answer = self.agree(self.open(link))
        return self.open(self.sign_in_there(answer, account or self.user))

    def close(self) -> None:
        """Close the window."""
        self.http.close()


async def _session(gw: Gateway, subject: Subject) -> tuple[str, str]:
    """A session as the sign-in would open it, in the gateway's own state."""
    engine = open_database(gw.state / "agentgw.db")
    try:
        browser = Browser(
            gw.url,
            Seal(KeyRing(gw.state).secret("cookies"), os.urandom),
            OneTime(engine),
            lambda: None,
            lambda renewable: 3600,
            time.time,
            os.urandom,
        )
        response = Response()
        person = Person(subject, frozenset())
        await browser.open_session({"headers": []}, person, gw.issuer.url, response)
    finally:
        engine.dispose()
    pair = response.headers["set-cookie"].partition(";")[0]
    name, _, value = pair.partition("=")
    return name, value


@dataclass
class House:
    """A gateway whose server `saas` knows people by accounts of their own."""

    gw: Gateway
    saas: Saas
    _browsers: list[UserBrowser] = field(default_factory=list)

    def browser(self, user: str) -> UserBrowser:
        """A new browser in which `user` is signed in."""
        made = UserBrowser(self.gw, user)
        self._browsers.append(made)
        return made

    def call(
        self, user: str = "alice", tool: str = "saas__notes", **claims: Any
    ) -> httpx2.Response:
        """Call the tool as `user`, with a token never used before."""
        return self.gw.call(tool, self.gw.token(sub=user, **claims))

    def refused(self, user: str = "alice", code: int = 46008) -> dict[str, Any]:
        """The refusal of a call."""
        answer = self.call(user)
        assert answer.status_code == 200, answer.text
        error: dict[str, Any] = answer.json()["error"]
        assert error["code"] == code, error
        return error

    def link(self, user: str = "alice") -> str:
        """The link that a call of `user` is refused with."""
        return str(self.refused(user)["data"]["url"])

    def notes(self, user: str = "alice") -> str:
        """What the tool answers to `user`."""
        answer = self.call(user)
        assert "result" in answer.json(), answer.text
        result = answer.json()["result"]
        assert not result.get("isError"), result
        return str(result["content"][0]["text"])

    def connect(self, user: str = "alice", account: str | None = None) -> None:
        """Let `user` connect an account, by the link of a call."""
        browser = self.browser(user)
        answer = browser.connect(self.link(user), account)
        assert answer.status_code == 200 and "is connected" in answer.text, answer.text

    def wait_for_workers(self, count: int, user: str) -> None:
        """Wait until each worker serves `user`, who connected: one that was just refused the list of tools,
        which needs an account, asks for it again after its first call only."""
        served: set[str] = set()

        def all_serve() -> bool:
            answer = self.call(user)
            event = answer.headers["agentgw-event-id"]
            if "result" in answer.json():
                served.update(r["log"] for r in self.gw.records() if r["event_id"] == event)
            return len(served) == count

        wait_for(all_serve, "each worker to serve a connected user")

    def records(self, method: str) -> list[dict[str, Any]]:
        """The records of a method."""
        return [r for r in self.gw.records() if r.get("method") == method]

    def close(self) -> None:
        """Close all browsers."""
        for browser in self._browsers:
            browser.close()


@contextlib.contextmanager
def house(folder: Path, oauth: Mapping[str, Any] | None = None, **changes: Any) -> Iterator[House]:
    """A gateway, its users' issuer, and a Saas. `oauth` is laid over the server's settings."""
    saas, issuer = Saas().start(), Issuer().start()
    try:
        auth = {"mode": "oauth", "oauth": dict(oauth or {})}
        config = {
            "servers": {"saas": {"url": saas.mcp, "auth": auth}},
            "grants": allow_all("saas"),
            "login": {"issuer": "laptop", "client_id": "agentgw"},
        }
        with gateway(folder, issuer, {**config, **changes}) as gw:
            running = House(gw, saas)
            try:
                yield running
            finally:
                running.close()
    finally:
        saas.stop()
        issuer.stop()


def query_of(url: str) -> dict[str, str]:
    """The query of a URL, each name once."""
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
