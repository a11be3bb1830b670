"""Programs whose users sign in at the gateway: a place with agents to let in, and a client with PKCE."""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx2

from agentgw.core.canonical import b64url
from tests.harness import NO_TLS, allow_all, faulty_server, modern_headers, modern_message
from tests.people import Page, Place, Visitor, place, query_of
from tests.sts.sts_under_test import claims_of

AUTHORIZE = "/oauth/authorize"
REDIRECT = "http://127.0.0.1:45123/callback"


def agents() -> dict[str, Any]:
    """desktop and web are public, server has a secret; desktop may hand work to coder."""
    return {
        "desktop": {
            "login": {"redirect_uris": ["http://127.0.0.1/callback", "http://localhost/callback"]},
            "may_hand_to": ["coder"],
        },
        "web": {"login": {"redirect_uris": ["https://app.example.com/cb"]}},
        "server": {
            "login": {"redirect_uris": ["https://server.example.com/cb"]},
            "auth": {"secret": "server-secret-for-tests"},
            "may_hand_to": ["coder"],
        },
        "coder": {"auth": {"secret": "coder-secret-for-tests"}},
        "planner": {"auth": {"secret": "planner-secret-for-tests"}},
    }


@contextlib.contextmanager
def login_place(folder: Path, tools: str, **changes: Any) -> Iterator[Place]:
    """A gateway where users sign in for `agents()`, before a tool server at `tools`."""
    config: dict[str, Any] = {
        "agents": agents(),
        "servers": {
            name: {
                "url": f"{tools}/mcp/ok",
                "auth": {"mode": "token", "audience": f"{tools}/{name}"},
            }
            for name in ("tickets", "notes")
        },
        "grants": allow_all("tickets", "notes"),
    }
    with place(folder, {**config, **changes}) as here:
        yield here


@dataclass
class App:
    """A program that has its user sign in: one request, with a verifier and a state of its own."""

    here: Place
    client_id: str = "desktop"
    redirect_uri: str = REDIRECT
    secret: str | None = None
    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(48))
    state: str = field(default_factory=lambda: secrets.token_urlsafe(12))

    @property
    def challenge(self) -> str:
        """The S256 challenge of the verifier."""
        return b64url(hashlib.sha256(self.verifier.encode()).digest())

    def query(self, **changes: str | None) -> dict[str, str]:
        """The parameters of the request; a change to None leaves one out."""
        asked: dict[str, str | None] = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": self.redirect_uri,
            "code_challenge": self.challenge,
            "code_challenge_method": "S256",
            "state": self.state,
            "resource": f"{self.here.url}/mcp",
            **changes,
        }
        return {name: value for name, value in asked.items() if value is not None}

    def url(self, **changes: str | None) -> str:
        """Where to send the browser."""
        return f"{self.here.url}{AUTHORIZE}?{urlencode(self.query(**changes))}"

    def consent_page(self, visitor: Visitor, user: str = "alice", **changes: str | None) -> Page:
        """The page that asks, in a browser that signs in on the way where it must."""
        page = visitor.open(self.url(**changes))
        return signed_in(self.here, visitor, page, user)

    def code(self, visitor: Visitor, user: str = "alice") -> str:
        """A code, once the user has allowed all that is offered."""
        page = self.consent_page(visitor, user)
        return query_of(allow(visitor, page))["code"]

    def redeem(self, code: str, **changes: str | None) -> httpx2.Response:
        """Redeem a code; a change to None leaves a parameter out."""
        form: dict[str, str | None] = {
            "grant_type": "authorization_code",
            "code": code,
            "code_verifier": self.verifier,
            "redirect_uri": self.redirect_uri,
            "client_id": self.client_id,
            "client_secret": self.secret,
            **changes,
        }
        return self.post("/oauth/token", form)

    def refresh(self, token: str, **changes: str | None) -> httpx2.Response:
        """Use a refresh token."""
        return self.post(
            "/oauth/token",
            {
                "grant_type": "refresh_token",
                "refresh_token": token,
                "client_id": self.client_id,
                "client_secret": self.secret,
                **changes,
            },
        )

    def post(self, path: str, form: dict[str, str | None]) -> httpx2.Response:
        """Post a form to the gateway, without the parameters that are None."""
        sent = {name: value for name, value in form.items() if value is not None}
        with web() as client:
            return client.post(f"{self.here.url}{path}", data=sent)

    def tokens(self, visitor: Visitor, user: str = "alice") -> dict[str, Any]:
        """The answer to a code that was just allowed."""
        answer = self.redeem(self.code(visitor, user))
        assert answer.status_code == 200, answer.text
        answered: dict[str, Any] = answer.json()
        return answered


def signed_in(here: Place, visitor: Visitor, page: Page, user: str) -> Page:
    """`page`, or what comes after signing in where it is the issuer's."""
    if not page.url.startswith(here.issuer.url):
        return page
    password = here.issuer.passwords[user]
    return visitor.submit(page, page.form("/authorize"), None, user=user, password=password)


def allow(visitor: Visitor, page: Page, without: tuple[str, ...] = (), **fields: str) -> str:
    """Allow what a consent page has checked, but for `without`; returns where the browser goes then."""
    return answered(visitor, page, "allow", without, **fields)


def answered(
    visitor: Visitor, page: Page, answer: str, without: tuple[str, ...] = (), **fields: str
) -> str:
    """Answer a consent page; returns where the browser goes then, which it does not follow."""
    form = page.form(AUTHORIZE)
    for name in without:
        form.fields.pop(name, None)
    sent = submit(visitor, page, {**form.fields, "answer": answer, **fields})
    assert sent.status_code == 303, sent.text
    return str(sent.headers["location"])


def submit(visitor: Visitor, page: Page, fields: dict[str, str]) -> httpx2.Response:
    """Post fields as the form of a consent page, from the browser that shows it."""
    url = urlsplit(page.url)
    headers = {"Origin": f"{url.scheme}://{url.netloc}", "Sec-Fetch-Site": "same-origin"}
    return visitor.client.post(page.form(AUTHORIZE).action, data=fields, headers=headers)


class Watcher:
    """Waits for a program to say the URL that its user should open, and does what alice would.

    `said` is the file with what it says; she allows all but what is `without`.
    """

    URL = re.compile(r"http://127\.0\.0\.1:\d+/oauth/authorize\?\S+")

    def __init__(self, here: Place, said: Path, without: tuple[str, ...]) -> None:
        self._here = here
        self._said = said
        self._without = without
        self._over = threading.Event()

    def run(self) -> None:
        """Look now and then until the URL is there, or `stop`."""
        while not self._over.wait(0.05):
            found = self.URL.search(self._said.read_text(errors="replace"))
            if found is not None:
                self._consent(found[0])
                return

    def stop(self) -> None:
        """Wait no longer."""
        self._over.set()

    def _consent(self, url: str) -> None:
        with Visitor() as alice, web() as browser:
            page = signed_in(self._here, alice, alice.open(url), "alice")
            back = allow(alice, page, self._without)
            assert browser.get(back).status_code == 200


def web() -> httpx2.Client:
    """A client that trusts nobody's TLS and follows nothing."""
    return httpx2.Client(transport=httpx2.HTTPTransport(verify=NO_TLS), trust_env=False, timeout=30)


def ask(here: Place, token: str, method: str, path: str = "/mcp", **params: Any) -> httpx2.Response:
    """Send one MCP request with a token."""
    message = modern_message(method, params)
    with web() as client:
        return client.post(here.url + path, json=message, headers=modern_headers(message, token))


def tools_of(here: Place, token: str) -> set[str]:
    """The names that a list shows."""
    answer = ask(here, token, "tools/list")
    return {tool["name"] for tool in answer.json()["result"]["tools"]}


@contextlib.contextmanager
def attacked_place(folder: Path, **changes: Any) -> Iterator[Place]:
    """A `login_place` with tool servers of its own."""
    with faulty_server() as tools, login_place(folder, tools, **changes) as here:
        yield here


def login_of(here: Place, given: dict[str, Any]) -> str:
    """The login that a token answer came of, by the ledger."""
    jti = claims_of(given["access_token"])["jti"]
    engine = here.engine()
    with engine.connect() as connection:
        row = connection.exec_driver_sql("SELECT parent FROM ledger WHERE jti = ?", (jti,))
        login = str(row.scalar())
    engine.dispose()
    return login
