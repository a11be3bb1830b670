"""A whole token service in one process: real keys, ledger, verifier and endpoint, a clock to turn."""

from __future__ import annotations

import base64
import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx2
import jwt
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from starlette.applications import Starlette

from agentgw.core.actor import AgentRules, ClientRule
from agentgw.core.canonical import b64url
from agentgw.core.claims import IssuerRules
from agentgw.core.exchange import ExchangeAgent, ExchangeRules
from agentgw.core.exchange_request import ACCESS_TOKEN, GRANT_TYPE
from agentgw.core.principal import Issued
from agentgw.errors import InvalidToken, Unavailable
from agentgw.http.oauth import OAuthEndpoint
from agentgw.identity import jose
from agentgw.identity.jwk import VerifyKey, bind_key
from agentgw.identity.verifier import TokenVerifier
from agentgw.registry.assertions import UsedAssertions
from agentgw.registry.ledger import Ledger
from agentgw.registry.schema import open_database
from agentgw.sts.clients import ASSERTION_TYPE, Client, ClientAuthenticator
from agentgw.sts.keys import KeyRing
from agentgw.sts.mint import Minter

NOW = 1795400000
GATEWAY = "https://gw.example.com"
IDP = "https://idp.example.com/realms/acme"
MCP = f"{GATEWAY}/mcp"
TIME = f"{GATEWAY}/mcp/time"
NAMES = ("planner", "coder", "tester", "idle")
SECRETS = {name: f"{name}-secret-of-32-characters-long" for name in NAMES}


def agent_id(name: str) -> str:
    return f"{GATEWAY}/a2a/{name}"


def exchange_rules(**changes: Any) -> ExchangeRules:
    """planner may hand to coder and itself, coder to tester and planner; idle is disabled."""
    agents = {
        "planner": ExchangeAgent(
            "planner",
            agent_id("planner"),
            may_hand_to=frozenset({"coder", "planner", "idle"}),
        ),
        "coder": ExchangeAgent(
            "coder",
            agent_id("coder"),
            may_hand_to=frozenset({"tester", "planner"}),
            subject_from=frozenset({("acme", "portal"), ("acme", "planner")}),
        ),
        "tester": ExchangeAgent("tester", agent_id("tester"), max_depth=2),
        "idle": ExchangeAgent("idle", agent_id("idle"), disabled=True),
    }
    return ExchangeRules(GATEWAY, frozenset({MCP, TIME, f"{MCP}/tickets"}), {**agents, **changes})


class Clock:
    """A clock that stands still until told otherwise."""

    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


@dataclass
class IdpKey:
    """The identity provider's one key, as a KeySource of the verifier."""

    private: EllipticCurvePrivateKey = field(
        default_factory=lambda: generate_private_key(SECP256R1())
    )

    async def find(self, kid: str | None, alg: str) -> VerifyKey:
        if kid != "idp-1":
            raise InvalidToken("unknown kid")
        return bind_key(self.private.public_key(), kid)


@dataclass
class OurTokens:
    keyring: KeyRing
    ledger: Ledger
    issuer: str = GATEWAY

    def key(self, kid: str) -> object | None:
        key = self.keyring.key(kid)
        return None if key is None else key.public

    def issued(self, jti: str) -> Issued | None:
        return self.ledger.find(jti)


class StsUnderTest:
    """The endpoint and everything under it, reached by `client`, an in-process HTTP client."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.rules = exchange_rules()
        self.records: list[dict[str, object]] = []
        self.log_is_full = False
        self.refused: list[str] = []
        self.idp = IdpKey()
        self.coder_key = generate_private_key(SECP256R1())
        self.keyring = KeyRing(folder, clock=self.clock)
        engine = open_database(folder / "state.db")
        self.ledger = Ledger(engine)
        self.verifier = TokenVerifier(
            [
                IssuerRules(
                    "acme",
                    IDP,
                    {MCP: frozenset({MCP}), TIME: frozenset({TIME})},
                    tolerated_audiences=frozenset({"account"}),
                    groups_claim="groups",
                )
            ],
            [
                AgentRules(
                    name,
                    agent_id(name),
                    (ClientRule("acme", name, confidential=name != "tester"),),
                    disabled=name == "idle",
                )
                for name in NAMES
            ],
            OurTokens(self.keyring, self.ledger),
            GATEWAY,
            {"acme": self.idp},
        )
        self.credentials = {
            name: Client(
                name,
                secret=SECRETS[name],
                keys=(bind_key(self.coder_key.public_key(), "c1"),) if name == "coder" else (),
            )
            for name in NAMES
        }
        clients = ClientAuthenticator(
            lambda: self.credentials,
            GATEWAY,
            split=jose.split,
            verify=jose.verify,
            used=UsedAssertions(engine),
            clock=self.clock,
        )
        ids = (f"event-{number}" for number in itertools.count())
        self.endpoint = OAuthEndpoint(
            verifier=lambda: self.verifier,
            clients=clients,
            ledger=self.ledger,
            keyring=self.keyring,
            minter=Minter(self.keyring, GATEWAY),
            rules=lambda: self.rules,
            append=self.append,
            new_event_id=lambda: next(ids),
            clock=self.clock,
            refused=self.refused.append,
        )
        self.client = httpx2.AsyncClient(
            transport=httpx2.ASGITransport(Starlette(routes=self.endpoint.routes())),
            base_url=GATEWAY,
        )

    async def append(self, record: dict[str, object]) -> None:
        if self.log_is_full:
            raise Unavailable("the disk under /var/lib/secret-place is full")
        self.records.append(record)

    def idp_token(self, **changes: Any) -> str:
        """alice's token for planner; a change to None leaves the claim out."""
        claims: dict[str, Any] = {
            "iss": IDP,
            "aud": [MCP, "account"],
            "sub": "alice",
            "azp": "planner",
            "typ": "Bearer",
            "scope": "tickets.read tickets.write",
            "groups": ["support"],
            "iat": NOW - 60,
            "exp": NOW + 840,
            "jti": "idp-7c1",
        } | changes
        kept = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(kept, self.idp.private, "ES256", headers={"kid": "idp-1"})

    def assertion(self, typ: str | None = None, **changes: Any) -> str:
        """coder's private_key_jwt; a change to None leaves the claim out."""
        claims: dict[str, Any] = {
            "iss": "coder",
            "sub": "coder",
            "aud": GATEWAY,
            "iat": NOW,
            "exp": NOW + 60,
            "jti": "assertion-1",
        } | changes
        kept = {name: value for name, value in claims.items() if value is not None}
        headers = {"kid": "c1"} | ({} if typ is None else {"typ": typ})
        return jwt.encode(kept, self.coder_key, "ES256", headers=headers)

    async def post(
        self, form: dict[str, str] | list[tuple[str, str]], agent: str | None = "planner"
    ) -> httpx2.Response:
        """Post a form, with `agent`'s secret by Basic."""
        body = urlencode(form)
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        if agent is not None:
            headers["Authorization"] = basic(agent, SECRETS[agent])
        return await self.client.post("/oauth/token", content=body, headers=headers)

    async def exchange(
        self, token: str, target: str, agent: str = "planner", **more: str
    ) -> httpx2.Response:
        """Exchange `token` for `target` as `agent`."""
        kind = "audience" if "/a2a/" in target else "resource"
        return await self.post(subject_form(token) | {kind: target} | more, agent)

    async def token(self, subject: str, target: str, agent: str = "planner", **more: str) -> str:
        """The token that an exchange gives; fails the test where it gives none."""
        answer = await self.exchange(subject, target, agent, **more)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])


def basic(name: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()


def subject_form(token: str) -> dict[str, str]:
    return {
        "grant_type": GRANT_TYPE,
        "subject_token": token,
        "subject_token_type": ACCESS_TOKEN,
    }


def with_assertion(form: dict[str, str], assertion: str) -> dict[str, str]:
    return form | {"client_assertion_type": ASSERTION_TYPE, "client_assertion": assertion}


def claims_of(token: str) -> dict[str, Any]:
    """The claims of a token, unverified."""
    part = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    assert isinstance(claims, dict)
    return claims


def forged(token: str, **changes: Any) -> str:
    """`token` with other claims under its old signature."""
    head, _, signature = token.split(".")
    return ".".join((head, b64url(json.dumps(claims_of(token) | changes).encode()), signature))
