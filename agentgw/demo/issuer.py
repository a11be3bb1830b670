"""A laptop issuer: an OpenID provider on loopback, with two users, fresh keys and fresh passwords.

    python -m agentgw.demo.issuer --port 9000 --client agentgw=http://127.0.0.1:7117/oauth/callback

It prints its passwords and client secrets; nothing of it outlives the process. Only a gateway with
`dev: true` takes an issuer on plain http.
"""

from __future__ import annotations

import argparse
import json
import secrets
import socket
import threading
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jwt
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agentgw.demo.login_page import Client, Code, LoginPage

PEOPLE: Mapping[str, tuple[str, ...]] = MappingProxyType({"alice": ("support",), "bob": ()})
"""The users and the groups they are in at first."""


class Issuer:
    """An OIDC issuer on loopback, served by a thread of this process while the context is open.

    `passwords` are those of PEOPLE, `groups` those they are in now, `disabled` who may not sign in any more.
    `clients` may send people to sign in, by client id. `port` is any free one by default.
    """

    def __init__(self, port: int = 0) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._kid = secrets.token_hex(8)
        self.passwords = {user: secrets.token_urlsafe(12) for user in PEOPLE}
        self.groups = dict(PEOPLE)
        self.disabled: set[str] = set()
        self.clients: dict[str, Client] = {}
        self._socket = socket.create_server(("127.0.0.1", port))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(
            Starlette(routes=self.routes()), log_level="error", lifespan="off", access_log=False
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True
        )

    def routes(self) -> list[Route]:
        """What everybody may ask."""
        return [
            Route("/.well-known/openid-configuration", self._discovery),
            Route("/jwks.json", self._jwks),
            *LoginPage(
                self.url, self.passwords, self.clients, self.disabled, self._tokens
            ).routes(),
        ]

    def register(self, client_id: str, *redirect_uris: str) -> str:
        """Let a client send people here, and back to one of these URIs; returns its fresh secret."""
        secret = secrets.token_urlsafe(32)
        self.clients[client_id] = Client(client_id, secret, redirect_uris)
        return secret

    def __enter__(self) -> Issuer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=3)
        self._socket.close()

    def token(
        self,
        user: str,
        client: str,
        audience: str,
        *,
        scope: str = "tickets.read tickets.write",
        life: int = 900,
    ) -> str:
        """An access token as `client` gets it once `user` has signed in; `life` in seconds.

        Raises KeyError for somebody who is not one of PEOPLE.
        """
        groups = self.groups[user]
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": audience,
            "sub": user,
            "azp": client,
            "typ": "Bearer",
            "scope": scope,
            "groups": list(groups),
            "iat": now,
            "exp": now + life,
            "jti": secrets.token_urlsafe(16),
        }
        return jwt.encode(claims, self._key, "ES256", headers={"kid": self._kid})

    def _tokens(self, code: Code) -> dict[str, Any]:
        """The token answer to a code (OIDC Core 3.1.3.3)."""
        now = int(time.time())
        identity = {
            "iss": self.url,
            "aud": code.client_id,
            "azp": code.client_id,
            "sub": code.user,
            "name": code.user.capitalize(),
            "groups": list(self.groups[code.user]),
            "auth_time": code.at,
            "iat": now,
            "exp": now + 300,
            **({} if code.nonce is None else {"nonce": code.nonce}),
        }
        return {
            "access_token": self.token(code.user, code.client_id, code.client_id, scope="openid"),
            "token_type": "Bearer",
            "expires_in": 900,
            "id_token": jwt.encode(identity, self._key, "ES256", headers={"kid": self._kid}),
        }

    async def _discovery(self, request: Request) -> Response:
        return JSONResponse(
            {
                "issuer": self.url,
                "jwks_uri": f"{self.url}/jwks.json",
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
                "response_types_supported": ["code"],
                "grant_types_supported": ["authorization_code", "refresh_token"],
                "scopes_supported": ["openid", "offline_access"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256"],
                "code_challenge_methods_supported": ["S256"],
                "token_endpoint_auth_methods_supported": [
                    "client_secret_basic",
                    "client_secret_post",
                ],
                "authorization_response_iss_parameter_supported": True,
            }
        )

    async def _jwks(self, request: Request) -> Response:
        return JSONResponse({"keys": [public_jwk(self._key, self._kid)]})


def public_jwk(key: ec.EllipticCurvePrivateKey, kid: str) -> dict[str, Any]:
    """The public half of an ES256 key as a JWK (RFC 7517)."""
    made: dict[str, Any] = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()))
    return {**made, "kid": kid, "alg": "ES256", "use": "sig"}


def main() -> None:
    """Serve until interrupted; see the module's own words for the arguments."""
    parser = argparse.ArgumentParser(prog="python -m agentgw.demo.issuer", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument(
        "--client",
        action="append",
        default=[],
        metavar="ID=REDIRECT_URI",
        help="a client and where it may send people back to (repeatable)",
    )
    given = parser.parse_args()
    with Issuer(given.port) as issuer:
        made = {}
        for word in given.client:
            client_id, equals, redirect_uri = word.partition("=")
            if not equals:
                parser.error("--client takes ID=REDIRECT_URI")
            made[client_id] = issuer.register(client_id, redirect_uri)
        said = {"issuer": issuer.url, "passwords": issuer.passwords, "client_secrets": made}
        print(json.dumps(said, indent=2), flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
