"""A laptop issuer: an OpenID provider with two users, fresh keys, and no login page yet.

It publishes what a gateway asks of an issuer (discovery and keys). Tokens are handed out in-process
only; the public routes stand in `Issuer.routes`, where a login page would join them.
"""

from __future__ import annotations

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

PEOPLE: Mapping[str, tuple[str, ...]] = MappingProxyType({"alice": ("support",), "bob": ()})
"""The users and the groups they are in."""


class Issuer:
    """An OIDC issuer on loopback, served by a thread of this process while the context is open."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._kid = secrets.token_hex(8)
        self._socket = socket.create_server(("127.0.0.1", 0))
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
        ]

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
        groups = PEOPLE[user]
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

    async def _discovery(self, request: Request) -> Response:
        return JSONResponse({"issuer": self.url, "jwks_uri": f"{self.url}/jwks.json"})

    async def _jwks(self, request: Request) -> Response:
        return JSONResponse({"keys": [public_jwk(self._key, self._kid)]})


def public_jwk(key: ec.EllipticCurvePrivateKey, kid: str) -> dict[str, Any]:
    """The public half of an ES256 key as a JWK (RFC 7517)."""
    made: dict[str, Any] = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()))
    return {**made, "kid": kid, "alg": "ES256", "use": "sig"}
