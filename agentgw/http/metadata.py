"""What the authorization server says of itself: its metadata and public keys (RFC 8414, RFC 7517)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agentgw.core.authorization_details import TOOL_DETAILS
from agentgw.core.id_jag import JWT_BEARER, PROFILE
from agentgw.sts.clients import ASSERTION_ALGORITHMS

_CACHED = {"Cache-Control": "public, max-age=300"}


class PublicKeys(Protocol):
    """The keys that verify our tokens; the call may read files."""

    def jwks(self) -> dict[str, Any]: ...


class AuthorizationServerMetadata:
    """The documents. `issuer` is our own; `grant_types`, `auth_methods` and `bound_tokens` (what RFC 9449
    and RFC 8705 add) give what works now; `login` tells whether users can sign in for any agent, `clients`
    what there is for clients that the operator does not name."""

    def __init__(
        self,
        issuer: str,
        keys: PublicKeys,
        grant_types: Callable[[], Sequence[str]],
        auth_methods: Callable[[], Sequence[str]],
        bound_tokens: Callable[[], Mapping[str, object]],
        login: Callable[[], bool] = lambda: False,
        clients: Callable[[], Mapping[str, object]] = dict,
    ) -> None:
        self._issuer = issuer
        self._keys = keys
        self._grant_types = grant_types
        self._auth_methods = auth_methods
        self._bound_tokens = bound_tokens
        self._login = login
        self._clients = clients

    def routes(self) -> list[Route]:
        """The routes of this face, to be mounted at the root."""
        return [
            Route("/oauth/jwks.json", self.jwks, methods=["GET"]),
            Route("/.well-known/oauth-authorization-server", self.metadata, methods=["GET"]),
            Route("/.well-known/openid-configuration", self.metadata, methods=["GET"]),
        ]

    async def jwks(self, request: Request) -> Response:
        """The public keys that verify our tokens."""
        return JSONResponse(await asyncio.to_thread(self._keys.jwks), headers=_CACHED)

    async def metadata(self, request: Request) -> Response:
        """What this authorization server can do, and nothing it cannot (RFC 8414 section 2)."""
        described: dict[str, object] = {
            "issuer": self._issuer,
            "jwks_uri": f"{self._issuer}/oauth/jwks.json",
            # Required by the RFC even where no response type is offered.
            "response_types_supported": [],
            "grant_types_supported": list(self._grant_types()),
            "authorization_details_types_supported": [TOOL_DETAILS],
        }
        for name in ("token", "revocation", "introspection"):
            path = {"revocation": "revoke", "introspection": "introspect"}.get(name, name)
            described[f"{name}_endpoint"] = f"{self._issuer}/oauth/{path}"
            described[f"{name}_endpoint_auth_methods_supported"] = list(self._auth_methods())
            algorithms = f"{name}_endpoint_auth_signing_alg_values_supported"
            described[algorithms] = list(ASSERTION_ALGORITHMS)
        if JWT_BEARER in self._grant_types():
            described["authorization_grant_profiles_supported"] = [PROFILE]
        described["introspection_signing_alg_values_supported"] = ["ES256"]
        if self._login():
            described.update(self._of_login())
        return JSONResponse({**described, **self._bound_tokens()}, headers=_CACHED)

    def _of_login(self) -> dict[str, object]:
        """What there is where users sign in (RFC 8414, 7636, 8628, 9126, 9207)."""
        issuer, methods = self._issuer, self._auth_methods()
        return {
            "authorization_endpoint": f"{issuer}/oauth/authorize",
            "pushed_authorization_request_endpoint": f"{issuer}/oauth/par",
            "device_authorization_endpoint": f"{issuer}/oauth/device_authorization",
            "response_types_supported": ["code"],
            "response_modes_supported": ["query"],
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": True,
            "request_parameter_supported": False,
            "request_uri_parameter_supported": False,
            "prompt_values_supported": ["none", "login", "consent", "select_account"],
            "token_endpoint_auth_methods_supported": [*methods, "none"],
            "revocation_endpoint_auth_methods_supported": [*methods, "none"],
            **self._clients(),
        }
