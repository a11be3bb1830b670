"""A login issuer that answers whatever a test tells it to, and keeps what it was asked."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import jwt
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agentgw.core.canonical import b64url
from tests.harness import Gateway, Issuer, base_config, free_port, wait_for
from tests.people import Page, Visitor, query_of


class ScriptedIssuer:
    """An issuer without a login page: `answer_to` makes the callback URL a browser would be sent to.

    `metadata` and `claims` are laid over what an honest issuer says (None drops a member); `discovery`,
    `keys`, `token` and `userinfo` answer instead where they are set. `redeemed` are the forms of token
    requests.
    """

    def __init__(self) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.metadata: dict[str, Any] = {}
        self.claims: dict[str, Any] = {}
        self.discovery: Callable[[], Response] | None = None
        self.keys: Callable[[], Response] | None = None
        self.token: Callable[[dict[str, Any]], Response] | None = None
        self.userinfo: Callable[[Request], Response] | None = None
        self.redeemed: list[dict[str, str]] = []
        self.nonce = ""

    @contextlib.contextmanager
    def served(self) -> Iterator[ScriptedIssuer]:
        """Listen for as long as this is open."""
        routes = [
            Route("/.well-known/openid-configuration", self._discovery),
            Route("/.well-known/oauth-authorization-server", self._discovery),
            Route("/jwks", self._jwks),
            Route("/token", self._token, methods=["POST"]),
            Route("/userinfo", self._userinfo),
        ]
        port = int(self.url.rpartition(":")[2])
        config = uvicorn.Config(
            Starlette(routes=routes), port=port, log_config=None, lifespan="off"
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        wait_for(lambda: server.started, "the issuer to listen")
        try:
            yield self
        finally:
            server.should_exit = True
            thread.join(10)

    def honest_metadata(self) -> dict[str, Any]:
        """What an honest issuer says of itself."""
        return {
            "issuer": self.url,
            "jwks_uri": f"{self.url}/jwks",
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": True,
        }

    def honest_claims(self) -> dict[str, Any]:
        """What an honest ID token of alice says."""
        now = int(time.time())
        return {
            "iss": self.url, "aud": "agentgw", "sub": "alice", "nonce": self.nonce,
            "iat": now, "exp": now + 300,
        }  # fmt: skip

    def id_token(self, key: Any = None, alg: str = "ES256", **header: Any) -> str:
        """An ID token by `claims`."""
        claims = {k: v for k, v in {**self.honest_claims(), **self.claims}.items() if v is not None}
        return jwt.encode(claims, key or self.key, alg, headers={"kid": "k1", **header})

    def _discovery(self, request: Request) -> Response:
        if self.discovery is not None:
            return self.discovery()
        said = {**self.honest_metadata(), **self.metadata}
        return JSONResponse({name: value for name, value in said.items() if value is not None})

    def _jwks(self, request: Request) -> Response:
        if self.keys is not None:
            return self.keys()
        member = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self.key.public_key()))
        return JSONResponse({"keys": [{**member, "kid": "k1", "alg": "ES256", "use": "sig"}]})

    async def _userinfo(self, request: Request) -> Response:
        if self.userinfo is not None:
            return self.userinfo(request)
        return JSONResponse({"sub": "alice"})

    async def _token(self, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode()))
        self.redeemed.append(form)
        if self.token is not None:
            return self.token({"access_token": "a", "token_type": "Bearer"})
        return JSONResponse(
            {"access_token": "a", "token_type": "Bearer", "id_token": self.id_token()}
        )


class Scene:
    """A gateway whose users sign in at a scripted issuer."""

    def __init__(self, gateway: Gateway, issuer: ScriptedIssuer) -> None:
        self.gateway = gateway
        self.issuer = issuer

    def begin(self, browser: Visitor) -> Page:
        """Let a browser ask for /account; where it ends is the issuer's, or a page of ours."""
        page = browser.open(f"{self.gateway.url}/account", until=self.issuer.url)
        self.issuer.nonce = query_of(browser.passed[-1]).get("nonce", "")
        return page

    def answer(self, browser: Visitor, **parameters: str) -> str:
        """The callback URL of an honest answer to what this browser asked last."""
        asked = query_of(browser.passed[-1])
        honest = {"code": "c-1", "state": asked["state"], "iss": self.issuer.url}
        pairs = {**honest, **parameters}.items()
        query = "&".join(f"{name}={value}" for name, value in pairs if value)
        return f"{self.gateway.url}/oauth/callback?{query}"

    def sign_in(self, browser: Visitor, **parameters: str) -> Page:
        """The whole flow, as the issuer was told to play it."""
        page = self.begin(browser)
        if not browser.passed[-1].startswith(f"{self.issuer.url}/authorize"):
            return page
        return browser.open(self.answer(browser, **parameters))

    def is_signed_in(self, browser: Visitor) -> bool:
        """Whether the gateway knows this browser."""
        answer = browser.client.get(f"{self.gateway.url}/account")
        return answer.status_code == 200


@contextlib.contextmanager
def scene(folder: Path, **login: Any) -> Iterator[Scene]:
    """A running gateway, and the issuer; `login` changes that section of its configuration."""
    url = f"http://127.0.0.1:{free_port()}"
    with ScriptedIssuer().served() as issuer:
        config = base_config(Issuer(), url, folder)
        config["issuers"]["laptop"]["issuer"] = issuer.url
        config["login"] = {
            "issuer": "laptop", "client_id": "agentgw", "client_secret": b64url(b"s" * 32), **login
        }  # fmt: skip
        running = Gateway(folder, Issuer(), config)
        try:
            yield Scene(running.start(), issuer)
        finally:
            running.kill()
