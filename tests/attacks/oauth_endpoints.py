"""A gateway's OAuth endpoints as its metadata lists them, over a real issuer, reached in process."""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx2

from agentgw.app.opening import build
from agentgw.config import Config
from agentgw.core.exchange_request import ACCESS_TOKEN, GRANT_TYPE
from agentgw.sts.clients import ASSERTION_TYPE
from tests.harness import Issuer, allow_all, base_config
from tests.identity.forge import ec_key, ed_key, jwk, rsa_key, sign

HERE = "http://127.0.0.1:7117"
MCP = f"{HERE}/mcp"
FORM = "application/x-www-form-urlencoded"
SECRETS = {"planner": "planner-secret-for-tests"}

CODES = frozenset({
    "invalid_request", "invalid_client", "invalid_grant", "unauthorized_client",
    "unsupported_grant_type", "invalid_scope",  # RFC 6749 section 5.2
    "invalid_target",  # RFC 8707 section 2
    "invalid_authorization_details",  # RFC 9396 section 5
    "unsupported_token_type",  # RFC 7009 section 2.2.1
    "invalid_dpop_proof", "use_dpop_nonce",  # RFC 9449 sections 5 and 8
})  # fmt: skip
"""Every code that an answer of 400 or 401 may carry."""

KEYS: dict[str, Any] = {
    "ES256": ec_key("coder"),
    "RS256": rsa_key(),
    "EdDSA": ed_key(),
    "Ed25519": ed_key(),
}
"""coder's private keys by the algorithm they sign assertions with."""


@dataclass(repr=False)
class Endpoints:
    """A gateway in this process: `client` reaches it, `metadata` is what it says of itself."""

    client: httpx2.AsyncClient
    issuer: Issuer
    metadata: dict[str, Any] = field(default_factory=dict)

    def listed(self) -> dict[str, str]:
        """The paths of the endpoints that metadata lists, by name; those that take forms."""
        return {
            name: urlsplit(value).path
            for name, value in self.metadata.items()
            if name.endswith("_endpoint")
        }

    def subject_token(self, **claims: Any) -> str:
        """alice's token through planner."""
        return self.issuer.token(MCP, **claims)

    def form(self, endpoint: str) -> dict[str, str]:
        """An honest form for the endpoint of that name in metadata."""
        if endpoint == "token_endpoint":
            return {
                "grant_type": GRANT_TYPE,
                "subject_token": self.subject_token(),
                "subject_token_type": ACCESS_TOKEN,
                "resource": MCP,
            }
        return {"token": self.subject_token(), "token_type_hint": "access_token"}

    async def post(
        self, path: str, form: dict[str, str], agent: str = "planner"
    ) -> httpx2.Response:
        """An honest post by `agent`, authenticated by its secret."""
        return await self.client.post(
            path,
            content=urlencode(form),
            headers={"Content-Type": FORM, "Authorization": basic(agent)},
        )

    async def works(self) -> None:
        """The honest exchange works; fails the test where it does not."""
        answer = await self.post("/oauth/token", self.form("token_endpoint"))
        assert answer.status_code == 200, answer.text


def basic(agent: str, secret: str | None = None) -> str:
    """The Authorization value of `client_secret_basic`."""
    pair = f"{agent}:{SECRETS.get(agent, '') if secret is None else secret}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def assertion(alg: str, key: Any = None, **changes: Any) -> str:
    """coder's client assertion signed with `alg`."""
    now = int(time.time())
    claims = {
        "iss": "coder", "sub": "coder", "aud": HERE, "iat": now, "exp": now + 60,
        "jti": str(uuid.uuid4()), **changes,
    }  # fmt: skip
    return sign(
        KEYS[alg] if key is None else key,
        json.dumps(claims).encode(),
        {"alg": alg, "kid": alg},
        "EdDSA" if alg == "Ed25519" else alg,
    ).decode()


def with_assertion(form: dict[str, str], signed: str) -> dict[str, str]:
    """`form` with coder's assertion laid in."""
    return form | {"client_assertion_type": ASSERTION_TYPE, "client_assertion": signed}


@asynccontextmanager
async def endpoints(folder: Path) -> AsyncIterator[Endpoints]:
    """A gateway with alice's issuer, planner and coder; coder has a key of each algorithm."""
    issuer = Issuer().start()
    config = base_config(issuer, HERE, folder)
    config["grants"] = allow_all("*")
    config["agents"]["coder"] = {
        "clients": [{"issuer": "laptop", "client_id": "coder", "confidential": True}],
        "auth": {"jwks": {"keys": [jwk(key, kid=alg) for alg, key in KEYS.items()]}},
    }
    app = await build(Config.model_validate(config))
    try:
        transport = httpx2.ASGITransport(app.site)
        async with httpx2.AsyncClient(transport=transport, base_url=HERE) as client:
            found = Endpoints(client, issuer)
            answer = await client.get("/.well-known/oauth-authorization-server")
            found.metadata = answer.json()
            yield found
    finally:
        await app.close()
        issuer.stop()


def assert_refusal(answer: httpx2.Response) -> str:
    """That this is a refusal as the RFCs have it, and of no more words than they allow; its code."""
    assert 400 <= answer.status_code < 500, (answer.status_code, answer.text)
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert set(body) <= {"error", "error_description", "error_uri"}
    description = body.get("error_description", "")
    # RFC 6749 section 5.2: %x20-21 / %x23-5B / %x5D-7E.
    assert all(" " <= char <= "~" and char not in '"\\' for char in description), description
    if answer.status_code == 429:
        assert body["error"] == "temporarily_unavailable"
        return "temporarily_unavailable"
    assert body["error"] in CODES, body
    if body["error"] == "invalid_client":
        assert answer.status_code == 401 and answer.headers["www-authenticate"]
    elif answer.status_code != 405:
        assert answer.status_code == 400, (answer.status_code, body)
    return str(body["error"])


def claims_of(token: str) -> dict[str, Any]:
    """The claims of a token, unverified."""
    part = token.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found
