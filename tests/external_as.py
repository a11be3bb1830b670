"""An authorization server that is not ours, in a thread of the test; it lies and waits on demand."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import anyio
import httpx2
import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.harness import NO_TLS, Gateway, Issuer, allow_all, faulty_server, gateway

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
TYPES = "urn:ietf:params:oauth:token-type:"
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

PATIENCE = 10
"""Seconds that the gateway waits for an authorization server which does answer, on a busy machine too."""

Twist = Callable[[dict[str, Any], dict[str, Any]], None]
"""Changes the claims, or the answer around the token, before either leaves."""


class ExternalAs(Issuer):
    """Users' issuer and authorization server in one. `twist` and `instead` make it lie; `open` cleared makes
    it wait. `forms` are those it was sent, `trusts` the keys of the gateway whose grants it takes."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Any] = []
        self.trusts: dict[str, str] = {}
        self.client_key: Any = None
        self.typ = "at+jwt"
        self.opaque_tokens = False
        self.reset()
        app = self._server.config.app
        assert isinstance(app, Starlette)
        app.router.routes.append(Route("/token", self._token, methods=["POST"]))
        app.router.routes.append(Route("/elsewhere", self._token, methods=["GET", "POST"]))

    def reset(self) -> None:
        """Be honest and quick again."""
        self.twist: Twist = lambda claims, answer: None
        self.instead: Callable[[], Response] | None = None
        self.key_used: Any = self.key
        self.open = threading.Event()
        self.open.set()

    @property
    def exchanges(self) -> list[dict[str, str]]:
        """The forms that were about a user."""
        return [form for form in self.forms if form.get("grant_type") != "client_credentials"]

    async def _token(self, request: Request) -> Response:
        form = {
            name: values[0] for name, values in parse_qs((await request.body()).decode()).items()
        }
        self.forms.append(form)
        if not self._knows(request.headers.get("authorization"), form):
            return JSONResponse({"error": "invalid_client"}, 401)
        while not self.open.is_set():
            await anyio.sleep(0.01)
        if self.instead is not None and form["grant_type"] != "client_credentials":
            return self.instead()
        try:
            return self._answer(form)
        except jwt.PyJWTError as error:
            return JSONResponse({"error": "invalid_grant", "error_description": str(error)}, 400)

    def _answer(self, form: Mapping[str, str]) -> Response:
        now, subject = int(time.time()), self._subject(form)
        claims: dict[str, Any] = {
            "iss": self.url, "sub": "gateway-account", "aud": form.get("audience") or form.get("resource"),
            "client_id": "gateway", "scope": form.get("scope"), "iat": now, "exp": now + 120,
            "jti": f"as-{time.monotonic_ns()}",
        }  # fmt: skip
        if subject is not None:
            claims["sub"] = subject["sub"].rpartition("|")[2]
            claims["exp"] = min(now + 120, subject["exp"])
            claims |= {name: subject[name] for name in ("act", "oid") if name in subject}
        answer: dict[str, Any] = {
            "token_type": "Bearer",
            "expires_in": claims["exp"] - now,
            "issued_token_type": form.get("requested_token_type", f"{TYPES}access_token"),
        }
        typ = self.typ
        if form.get("requested_token_type") == f"{TYPES}id-jag":
            typ, answer["token_type"] = "oauth-id-jag+jwt", "N_A"
            claims |= {"resource": form.get("resource"), "client_id": "gateway"}
        if form["grant_type"] != "client_credentials":
            self.twist(claims, answer)
        claims = {name: value for name, value in claims.items() if value is not None}
        answer["access_token"] = answer.get("access_token") or self._made(claims, typ)
        return JSONResponse({name: value for name, value in answer.items() if value is not None})

    def _made(self, claims: dict[str, Any], typ: str) -> str:
        if self.opaque_tokens:
            token = f"opaque-{time.monotonic_ns()}"
            self.known[token] = {**claims, "token_type": "Bearer"}
        else:
            headers = {"kid": "k1", "typ": typ}
            token = jwt.encode(claims, self.key_used, "ES256", headers=headers)
        self.issued.append(token)
        return token

    def _subject(self, form: Mapping[str, str]) -> dict[str, Any] | None:
        """The claims of the token or grant that stands for the user."""
        token = form.get("subject_token", form.get("assertion"))
        if form["grant_type"] == "client_credentials" or token is None:
            return None
        issuer = jwt.decode(token, options={"verify_signature": False})["iss"]
        if issuer == self.url:
            options: Any = {"verify_aud": False}
            return jwt.decode(token, self.key.public_key(), ["ES256"], options=options)
        keys = httpx2.Client(transport=httpx2.HTTPTransport(verify=NO_TLS))
        with keys as client:
            found = client.get(self.trusts[issuer]).json()
        kid = jwt.get_unverified_header(token)["kid"]
        member = next(member for member in found["keys"] if member["kid"] == kid)
        key = jwt.PyJWK(member).key
        return jwt.decode(token, key, ["ES256"], audience=self.url)

    def _knows(self, authorization: str | None, form: Mapping[str, str]) -> bool:
        expected = base64.b64encode(b"gateway:gateway-secret").decode()
        if authorization == f"Basic {expected}" or form.get("client_secret") == "gateway-secret":
            return True
        if self.client_key is None or form.get("client_assertion_type") != ASSERTION:
            return False
        claims = jwt.decode(
            form["client_assertion"], self.client_key.public_key(), ["ES256"], audience=self.url
        )
        return bool(claims["iss"] == claims["sub"] == form["client_id"] == "gateway")

    def sign_with_another_key(self) -> None:
        """Sign what comes next with a key that is not published."""
        self.key_used = ec.generate_private_key(ec.SECP256R1())


@dataclass
class Stage:
    """A gateway whose server `tickets` takes tokens of an authorization server, and `time` ours."""

    gw: Gateway
    canary: Path

    def call(self, token: str | None = None, tool: str = "tickets__echo") -> httpx2.Response:
        """Call a tool as whoever holds `token`; by default as alice, with a token never used before."""
        return self.gw.call(tool, self.gw.token() if token is None else token, text="hello")

    def refused(self, token: str | None = None) -> dict[str, Any]:
        """The refusal of a call, which reached no tool."""
        before = len(self.seen("tools/call"))
        answer = self.call(token)
        assert answer.status_code == 200, answer.text
        assert len(self.seen("tools/call")) == before
        error: dict[str, Any] = answer.json()["error"]
        return error

    def difference(self, error: Mapping[str, Any]) -> dict[str, Any]:
        """What the record says differed."""
        event = error["data"]["event_id"]
        records = [r for r in self.gw.records() if r["event_id"] == event and "detail" in r]
        found: dict[str, Any] = records[0]["detail"]["difference"]
        return found

    def outcomes(self, event: str) -> list[str]:
        """How the calls of an event ended, as far as it is written."""
        found = [r for r in self.gw.records() if r["event_id"] == event]
        return [r["outcome"] for r in found if "outcome" in r]

    def seen(self, method: str | None = None, server: str = "tickets") -> list[dict[str, Any]]:
        """What reached the tool server."""
        found = [json.loads(line) for line in self.canary.read_text().splitlines()]
        of_server = [one for one in found if "headers" in one and one["query"]["as"] == server]
        return [
            one for one in of_server if method is None or f'"{method}"' in str(one.get("body", ""))
        ]

    def bearer(self) -> str:
        """The credential that came with the latest call of a tool of tickets."""
        value: str = self.seen("tools/call")[-1]["headers"]["authorization"]
        return value.removeprefix("Bearer ")


@dataclass
class House(Stage):
    """The same, with the authorization server at hand."""

    server: ExternalAs

    @contextlib.contextmanager
    def impatient(self) -> Iterator[None]:
        """While this lasts, the gateway waits one second for the authorization server."""
        account = self.gw.config["authorization_servers"]["acme"]
        account["timeout"] = 1
        self.gw.reload()
        try:
            yield
        finally:
            account["timeout"] = PATIENCE
            self.gw.reload()


@contextlib.contextmanager
def house(
    folder: Path,
    exchange: Mapping[str, Any] | None = None,
    account: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Iterator[House]:
    """The gateway, the tool servers, and one ExternalAs that is the users' issuer too."""
    canary = folder / "canary.jsonl"
    canary.touch()
    server = ExternalAs()
    server.start()
    try:
        with faulty_server("--record", str(canary)) as url:
            wanted = {"authorization_server": "acme", "audience": "tickets", "scope": "tickets.use"}
            config = {
                "authorization_servers": {
                    "acme": {
                        "issuer": server.url, "client_id": "gateway", "timeout": PATIENCE,
                        **({"client_secret": "gateway-secret"} if account is None else account),
                    }
                },
                "servers": {
                    "tickets": {
                        "url": f"{url}/mcp/ok?as=tickets",
                        "auth": {"mode": "exchange", "exchange": {**wanted, **(exchange or {})}},
                        "tools": {"fail": {"scope": "tickets.read"}},
                    },
                    "strict": {
                        "url": f"{url}/mcp/401?as=strict&on=tools/call",
                        "auth": {"mode": "exchange", "exchange": {**wanted, "audience": "strict"}},
                    },
                    "time": {"url": f"{url}/mcp/ok?as=time"},
                },
                "grants": allow_all("tickets", "strict", "time"),
            }  # fmt: skip
            with gateway(folder, server, {**config, **changes}) as gw:
                server.trusts[gw.url] = f"{gw.url}/oauth/jwks.json"
                yield House(gw, canary, server)
    finally:
        server.open.set()
        server.stop()
