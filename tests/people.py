"""People at browsers: a gateway where users sign in at the laptop issuer, and a browser without scripts."""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx2
from sqlalchemy import Engine

from agentgw.core.exchange import claims_of
from agentgw.core.principal import Hop, Issued, Subject
from agentgw.demo.issuer import Issuer as LaptopIssuer
from agentgw.registry.ledger import Ledger
from agentgw.registry.schema import open_database
from agentgw.sts.keys import KeyRing
from agentgw.sts.mint import Minter
from tests.certificates import LOOPBACK, client_context, issue
from tests.certificates import Issued as Authority
from tests.harness import NO_TLS, Gateway, Issuer, base_config, free_port

REDIRECTS = 10


@dataclass
class Form:
    """A form of a page: its fields as they stand, and where it goes."""

    action: str
    method: str
    fields: dict[str, str] = field(default_factory=dict)
    buttons: list[tuple[str, str]] = field(default_factory=list)


class Page(HTMLParser):
    """What a browser makes of an answer: its forms, links, and words."""

    def __init__(self, answer: httpx2.Response) -> None:
        super().__init__()
        self.url = str(answer.url)
        self.status = answer.status_code
        self.headers = answer.headers
        self.html = answer.text
        self.forms: list[Form] = []
        self.links: list[str] = []
        self.words = ""
        self._quiet = False
        self._select = ""
        self.feed(answer.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self._quiet = tag in ("style", "script")
        if tag == "a" and "href" in attributes:
            self.links.append(attributes["href"])
        elif tag == "form":
            action = urljoin(self.url, attributes.get("action", ""))
            self.forms.append(Form(action, attributes.get("method", "get")))
        elif tag == "input" and self.forms and "name" in attributes:
            if attributes.get("type") != "checkbox":
                self.forms[-1].fields[attributes["name"]] = attributes.get("value", "")
            elif "checked" in attributes:
                self.forms[-1].fields[attributes["name"]] = attributes.get("value", "on")
        elif tag == "select" and self.forms:
            self._select = attributes["name"]
        elif tag == "option" and self.forms and "selected" in attributes:
            self.forms[-1].fields[self._select] = attributes["value"]
        elif tag == "button" and self.forms and "name" in attributes:
            self.forms[-1].buttons.append((attributes["name"], attributes.get("value", "")))

    def handle_data(self, data: str) -> None:
        if not self._quiet:
            self.words = f"{self.words} {data}".strip()

    def form(self, action: str) -> Form:
        """The first form that goes to this path."""
        return next(form for form in self.forms if urlsplit(form.action).path == action)


class Visitor:
    """A browser with cookies of its own, which follows redirects and posts forms as browsers do."""

    def __init__(self, trust: ssl.SSLContext = NO_TLS) -> None:
        self.client = httpx2.Client(
            transport=httpx2.HTTPTransport(verify=trust), trust_env=False, timeout=30
        )
        self.passed: list[str] = []

    def __enter__(self) -> Visitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def open(self, url: str, until: str | None = None) -> Page:
        """Go to `url` and where it leads; stop before a URL that begins with `until`."""
        return self._follow(self.client.get(url), until)

    def submit(self, page: Page, form: Form, until: str | None = None, **fields: str) -> Page:
        """Post a form of `page`, as the browser that shows it."""
        url = urlsplit(page.url)
        headers = {"Origin": f"{url.scheme}://{url.netloc}", "Sec-Fetch-Site": "same-origin"}
        answer = self.client.post(form.action, data={**form.fields, **fields}, headers=headers)
        return self._follow(answer, until)

    def keep(self, cookies: Mapping[str, str]) -> None:
        """Hold these cookies of a gateway on loopback, as if it had set them."""
        for name, value in cookies.items():
            self.client.cookies.set(name, value, domain="127.0.0.1", path="/")

    def cookies(self) -> dict[str, str]:
        """What this browser holds."""
        return {cookie.name: cookie.value or "" for cookie in self.client.cookies.jar}

    def _follow(self, answer: httpx2.Response, until: str | None) -> Page:
        self.passed = [str(answer.url)]
        for _ in range(REDIRECTS):
            if not answer.is_redirect:
                return Page(answer)
            target = urljoin(str(answer.url), answer.headers["location"])
            self.passed.append(target)
            if until is not None and target.startswith(until):
                return Page(answer)
            answer = self.client.get(target)
        raise AssertionError(f"redirects without end: {self.passed}")


@dataclass
class Place:
    """A gateway with `login`, and the laptop issuer where its users sign in."""

    gateway: Gateway
    issuer: LaptopIssuer

    @property
    def url(self) -> str:
        """The gateway's public URL."""
        return self.gateway.url

    @property
    def callback(self) -> str:
        """Where people come back to."""
        return f"{self.url}/oauth/callback"

    def sign_in(self, visitor: Visitor, user: str = "alice", until: str | None = None) -> Page:
        """Let a browser open /account and sign in on the way."""
        page = visitor.open(f"{self.url}/account")
        assert page.url.startswith(self.issuer.url), page.words
        password = self.issuer.passwords[user]
        form = page.form("/authorize")
        return visitor.submit(page, form, until, user=user, password=password)

    def answer_for(self, visitor: Visitor, user: str = "alice") -> str:
        """The callback URL with the code, held back from the browser that asked for it."""
        self.sign_in(visitor, user, until=self.callback)
        return visitor.passed[-1]

    def answer_for_again(self, visitor: Visitor, user: str = "alice") -> str:
        """As `answer_for`, also for a browser that has a session: the flow of another tab goes on."""
        session = {n: v for n, v in visitor.cookies().items() if not n.endswith("-signin")}
        for name in session:
            visitor.client.cookies.delete(name)
        answer = self.answer_for(visitor, user)
        visitor.keep(session)
        return answer

    def engine(self) -> Engine:
        """The gateway's database."""
        return open_database(self.gateway.state / "agentgw.db")

    def let_in(self, agent: str, user: str = "alice", **changes: Any) -> Issued:
        """A login of `user` for `agent`, straight into the ledger."""
        now = int(time.time())
        values: dict[str, Any] = {
            "jti": f"login-{agent}-{user}-{time.monotonic_ns()}",
            "kind": "login",
            "parent": None,
            "subject": Subject("laptop", user, f"laptop|{user}"),
            "groups": frozenset({"laptop:group:support"}),
            "chain": (Hop(f"{self.url}/a2a/{agent}", agent, "consent"),),
            "audience": f"{self.url}/mcp",
            "scopes": frozenset(),
            "txn": f"t-{agent}",
            "iat": now,
            "exp": now + 3600,
            "presenter": f"https://{agent}.example/client.json",
            "resources": frozenset({f"{self.url}/mcp"}),
        }
        return self.record(Issued(**{**values, **changes}))

    def token(self, login: Issued) -> str:
        """An access token of ours that was issued by a login."""
        issued = replace(login, jti=f"{login.jti}-1", kind="gateway", parent=login.jti)
        claims = claims_of(self.record(issued), self.url, None)
        return Minter(KeyRing(self.gateway.state), self.url).sign(claims).decode()

    def record(self, issued: Issued) -> Issued:
        """Put an entry into the ledger."""
        engine = self.engine()
        Ledger(engine).record(issued)
        engine.dispose()
        return issued


def query_of(url: str) -> dict[str, str]:
    """The parameters of a URL, each once."""
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def login_config(issuer: LaptopIssuer, url: str, folder: Path) -> dict[str, Any]:
    """The configuration of a gateway at `url` whose users sign in at `issuer`."""
    secret = issuer.register("agentgw", f"{url}/oauth/callback")
    config = base_config(Issuer(), url, folder)
    config["issuers"]["laptop"]["issuer"] = issuer.url
    config["login"] = {"issuer": "laptop", "client_id": "agentgw", "client_secret": secret}
    return config


@contextlib.contextmanager
def place(
    folder: Path, changes: Mapping[str, Any] | None = None, *, tls: bool | Authority = False
) -> Iterator[Place]:
    """A running gateway whose users sign in at a laptop issuer; `changes` as for `harness.gateway`.

    With `tls` it serves https, by a certificate that no browser knows; with an authority by one of that,
    which is then the only one that the gateway trusts.
    """
    at = f"127.0.0.1:{free_port()}"
    url = f"https://{at}" if tls else f"http://{at}"
    with LaptopIssuer() as issuer:
        config = {**login_config(issuer, url, folder), "listen": at, **(changes or {})}
        running = Gateway(folder, Issuer(), config)
        if tls:
            authority = issue("authority of servers", ca=True) if tls is True else tls
            own = str(issue("127.0.0.1", authority, LOOPBACK).write(folder / "server.pem"))
            config["tls"] = {"cert": own, "key": own}
            running.transport = lambda: httpx2.HTTPTransport(verify=client_context(authority))
            if tls is authority:
                known = folder / "authority.pem"
                known.write_text(authority.pem)
                running.env = {"SSL_CERT_FILE": str(known)}
        try:
            yield Place(running.start(), issuer)
        finally:
            running.kill()
