"""A gateway for the tests of tool servers: it publishes keys and signs what it is told to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agentgw.core.call_token import call_claims, call_parts, params_digest, tool_digest
from agentgw.core.canonical import b64url
from agentgw.core.principal import Caller, Hop, Inbound, Subject
from agentgw.sts.keys import KeyRing
from agentgw.sts.mint import Minter
from agentgw.verify import CallVerifier

NOW = 1795400005
GATEWAY = "https://gw.example.com"
TICKETS = "https://tickets.example.com/mcp"
TOOL = {"name": "close_ticket", "inputSchema": {"type": "object"}, "_meta": {"pinned": True}}
MESSAGE: dict[str, Any] = {
    "jsonrpc": "2.0",
    "id": 7,
    "method": "tools/call",
    "params": {
        "name": "close_ticket",
        "arguments": {"id": 42, "reason": "solved"},
        "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"},
    },
}
CODER = Caller(
    subject=Subject("acme", "alice", "acme|alice"),
    chain=(
        Hop(f"{GATEWAY}/a2a/coder", "coder", "exchange"),
        Hop(f"{GATEWAY}/a2a/planner", "planner", "client-auth"),
    ),
    scopes=frozenset({"tickets.write"}),
    resources=frozenset({f"{GATEWAY}/mcp"}),
    exp=NOW + 300,
    inbound=Inbound(GATEWAY, "j-coder", "sha-256:x"),
    presenter=f"{GATEWAY}/a2a/coder",
    txn="t-1",
)


class Clock:
    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


class FakeGateway:
    """Real keys and a real signer; `answer` replaces the key set's HTTP answer where it is set."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.keyring = KeyRing(folder)
        self.minter = Minter(self.keyring, GATEWAY)
        self.fetches = 0
        self.answer: Response | None = None
        self.client = httpx2.AsyncClient(
            transport=httpx2.ASGITransport(
                Starlette(routes=[Route("/oauth/jwks.json", self._jwks)]),
                raise_app_exceptions=False,
            )
        )
        self._made = 0

    async def _jwks(self, request: Request) -> Response:
        self.fetches += 1
        return self.answer or JSONResponse(self.keyring.jwks())

    def verifier(self, **more: Any) -> CallVerifier:
        return CallVerifier(GATEWAY, TICKETS, client=self.client, clock=self.clock, **more)

    def claims(
        self,
        message: dict[str, Any] | None = None,
        caller: Caller | None = CODER,
        jkt: str | None = None,
    ) -> dict[str, Any]:
        method, identifier, params = call_parts(MESSAGE if message is None else message)
        self._made += 1
        return call_claims(
            issuer=GATEWAY,
            caller=caller,
            aud=TICKETS,
            method=method,
            identifier=identifier,
            scope="tickets.write" if caller else None,
            tool_digest=tool_digest(TOOL) if method == "tools/call" else None,
            params_digest=params_digest(TICKETS, method, params),
            may_act=None,
            life=60,
            now=NOW,
            jti=f"j-{self._made}",
            txn="t-own",
            jkt=jkt,
        )

    def opening_claims(self, http_method: str) -> dict[str, Any]:
        """The claims of a token for a GET or DELETE: no params, so no digest of them."""
        claims = self.claims()
        details = claims["authorization_details"][0]
        for name in ("identifier", "tool_digest", "params_digest"):
            del details[name]
        details["actions"] = [http_method]
        return claims

    def sign(self, claims: dict[str, Any], typ: str = "at+jwt") -> str:
        return self.minter.sign(claims, typ).decode()

    def sign_raw(self, body: bytes) -> str:
        """A token whose claims are just these bytes."""
        key = self.keyring.current
        assert key.sign is not None
        header = json.dumps({"alg": "ES256", "typ": "at+jwt", "kid": key.kid}).encode()
        signed = f"{b64url(header)}.{b64url(body)}"
        return f"{signed}.{b64url(key.sign(signed.encode()))}"

    def token(self, message: dict[str, Any] | None = None, caller: Caller | None = CODER) -> str:
        return self.sign(self.claims(message, caller))
