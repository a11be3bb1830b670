"""A whole token service in one process: real keys, ledger, verifier and endpoint, a clock to turn."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
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

from agentgw.app.authorization_server import Parts, authorization_server
from agentgw.core.actor import AgentRules, ClientRule
from agentgw.core.call_token import CALL_DETAILS, call_claims
from agentgw.core.canonical import b64url
from agentgw.core.claims import IssuerRules
from agentgw.core.client_metadata import ClientMetadata
from agentgw.core.exchange import ExchangeAgent, ExchangeRules
from agentgw.core.exchange_request import ACCESS_TOKEN, GRANT_TYPE
from agentgw.core.oauth_client import OAuthClient
from agentgw.core.principal import Issued
from agentgw.core.recorder import Recorder
from agentgw.core.revocation import Revoked
from agentgw.errors import InvalidToken, Unavailable
from agentgw.http.possession import Possession
from agentgw.identity import jose
from agentgw.identity.dpop import Nonces, ProofVerifier
from agentgw.identity.jwk import VerifyKey, bind_key, read_jwk
from agentgw.identity.verifier import TokenVerifier
from agentgw.registry.assertions import UsedAssertions
from agentgw.registry.hourly import Hourly
from agentgw.registry.ledger import Ledger, LedgerQueue
from agentgw.registry.one_time import OneTime
from agentgw.registry.proofs import UsedProofs
from agentgw.registry.refresh_tokens import RefreshTokens
from agentgw.registry.revocations import Revocations
from agentgw.registry.schema import open_database
from agentgw.sts.clients import ASSERTION_TYPE, METHODS, Client, ClientAuthenticator
from agentgw.sts.keys import KeyRing
from agentgw.sts.mint import Minter


async def as_it_was(login: Issued) -> Issued:
    """A login whose user's provider has nothing new to say."""
    return login


NOW = 1795400000
GATEWAY = "https://gw.example.com"
IDP = "https://idp.example.com/realms/acme"
PARTNER = "https://partner.example.com"
"""An issuer that may assert `act`; its key is the identity provider's."""
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

    def key(self, kid: str) -> VerifyKey | None:
        key = self.keyring.key(kid)
        return None if key is None else read_jwk(key.jwk())

    async def issued(self, jti: str) -> Issued | None:
        return self.ledger.find(jti)


class NoClients:
    """A gateway where nobody signs in."""

    agent: str | None = None
    reads_documents = False

    async def find(self, client_id: str) -> OAuthClient | None:
        return None

    async def prove(self, form: Mapping[str, str]) -> OAuthClient | None:
        return None

    async def register(self, client_id: str, metadata: ClientMetadata) -> None:
        raise AssertionError("nobody may register")


class StsUnderTest:
    """The endpoint and everything under it, reached by `client`, an in-process HTTP client.

    A context: what it opened is closed with it.
    """

    def __init__(self, folder: Path, max_in_flight: int = 64) -> None:
        self.clock = Clock()
        self.rules = exchange_rules()
        self.records: list[dict[str, object]] = []
        self.log_is_full = False
        self.refused: list[tuple[str | None, str, str | None]] = []
        self.idp = IdpKey()
        self.coder_key = generate_private_key(SECP256R1())
        self.keyring = KeyRing(folder, clock=self.clock)
        self._engine = engine = open_database(folder / "state.db")
        self.ledger = Ledger(engine)
        self.revocations = Revocations(engine)
        self.revoked = Revoked(GATEWAY)
        self.verifier = TokenVerifier(
            [
                IssuerRules(
                    "acme",
                    IDP,
                    {MCP: frozenset({MCP}), TIME: frozenset({TIME})},
                    tolerated_audiences=frozenset({"account"}),
                    groups_claim="groups",
                ),
                IssuerRules("partner", PARTNER, {MCP: frozenset({MCP})}, may_assert_act=True),
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
            {"acme": self.idp, "partner": self.idp},
            revoked=self.revoked.has_token,
        )
        self.credentials = {
            name: Client(
                name,
                secret=SECRETS[name],
                keys=(bind_key(self.coder_key.public_key(), "c1"),) if name == "coder" else (),
            )
            for name in NAMES
        }
        used = UsedAssertions(engine)
        self.clients = clients = ClientAuthenticator(
            lambda: self.credentials,
            GATEWAY,
            split=jose.split,
            verify=jose.verify,
            used=used,
            clock=self.clock,
        )
        self.nonces: Nonces | None = None
        self.used_proofs = UsedProofs(folder / "proofs.db", self.clock)
        minter = Minter(self.keyring, GATEWAY)
        self.endpoint = authorization_server(
            Parts(
                issuer=GATEWAY,
                keyring=self.keyring,
                minter=minter,
                clients=clients,
                ledger=LedgerQueue(engine),
                spend=lambda jti, exp: used.once(CALL_DETAILS, jti, exp),
                one_time=OneTime(engine),
                hourly=Hourly(engine),
                refresh_tokens=RefreshTokens(engine),
                login_clients=NoClients(),
                refresh_life=lambda: 86_400,
                longest_login=lambda: 86_400,
                store=self.revocations,
                refresh=self.refresh,
                revoked=self.revoked,
                verifier=lambda: self.verifier,
                rules=lambda: self.rules,
                possession=lambda: self.possession,
                auth_methods=lambda: METHODS,
                recorder=Recorder(self.append, self.clock, os.urandom),
                clock=self.clock,
                refused=lambda source, at, claimed=None: self.refused.append((source, at, claimed)),
                max_in_flight=max_in_flight,
            ),
            as_it_was,
        )
        self.app = Starlette(routes=self.endpoint.routes)
        self.client = httpx2.AsyncClient(
            transport=httpx2.ASGITransport(self.app),
            base_url=GATEWAY,
        )

    async def __aenter__(self) -> StsUnderTest:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()
        self.used_proofs.close()
        self._engine.dispose()

    @property
    def possession(self) -> Possession:
        proofs = ProofVerifier(self.used_proofs, 60, self.nonces)
        return Possession(proofs, GATEWAY, jose.ALGORITHMS)

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

    def partner_token(self, *agents: str, **changes: Any) -> str:
        """bob's token of the partner, whose `act` names these agents, the acting one first."""
        act: dict[str, Any] | None = None
        for name in reversed(agents):
            act = {"iss": GATEWAY, "sub": agent_id(name)} | ({} if act is None else {"act": act})
        claims = {"iss": PARTNER, "aud": MCP, "sub": "bob", "act": act, "jti": "partner-1"}
        return self.idp_token(**claims | changes)

    def resign(self, token: str, **changes: Any) -> str:
        """`token` of ours with other claims, signed with our own key; None leaves a claim out."""
        claims = claims_of(token) | changes
        kept = {name: value for name, value in claims.items() if value is not None}
        return Minter(self.keyring, GATEWAY).sign(kept).decode()

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

    async def refresh(self) -> None:
        self.revoked.apply(self.revocations.since(0))

    async def post(
        self,
        form: dict[str, str] | list[tuple[str, str]],
        agent: str | None = "planner",
        path: str = "/oauth/token",
        **more: str,
    ) -> httpx2.Response:
        """Post a form, with `agent`'s secret by Basic; `more` are headers."""
        body = urlencode(form)
        headers = {"Content-Type": "application/x-www-form-urlencoded", **more}
        if agent is not None:
            headers["Authorization"] = basic(agent, SECRETS[agent])
        return await self.client.post(path, content=body, headers=headers)

    async def prove(self, form: dict[str, str], agent: str, *proofs: str) -> httpx2.Response:
        """Post a form to the token endpoint with any number of DPoP headers."""
        headers = [
            ("Content-Type", "application/x-www-form-urlencoded"),
            ("Authorization", basic(agent, SECRETS[agent])),
            *(("DPoP", proof) for proof in proofs),
        ]
        return await self.client.post("/oauth/token", content=urlencode(form), headers=headers)

    async def call_token(self) -> str:
        """A token for one call of planner's, as a tool server gets it."""
        caller = await self.verifier.authenticate(self.idp_token().encode(), self.clock())
        claims = call_claims(
            issuer=GATEWAY, caller=caller, aud="https://tickets.example.com/mcp",
            method="tools/call", identifier="close_ticket", scope=None, tool_digest=None,
            params_digest="sha-256:p", may_act=None, life=60, now=NOW, jti="call-1", txn="t-1",
        )  # fmt: skip
        return Minter(self.keyring, GATEWAY).sign(claims).decode()

    async def revoke(self, token: str, agent: str = "planner", **more: str) -> httpx2.Response:
        """Revoke `token` as `agent`."""
        return await self.post({"token": token} | more, agent, "/oauth/revoke")

    async def introspect(self, token: str, agent: str = "planner", **more: str) -> httpx2.Response:
        """Introspect `token` as `agent`; `more` are headers."""
        return await self.post({"token": token}, agent, "/oauth/introspect", **more)

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
