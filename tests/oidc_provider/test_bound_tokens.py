"""Tokens that the provider bound to a key of the agent (DPoP, RFC 9449) are worth nothing without it."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from typing import Any

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.harness import modern_call, modern_headers
from tests.oidc_provider.server import OidcProvider
from tests.provider_house import House

pytestmark = pytest.mark.oidc_provider


class Key:
    """An agent's DPoP key."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._jwk = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self._key.public_key()))

    def proof(self, method: str, url: str, token: str | None = None) -> str:
        """A proof for one request (RFC 9449 section 4.2)."""
        claims: dict[str, Any] = {
            "jti": secrets.token_urlsafe(16), "htm": method, "htu": url, "iat": int(time.time()),
        }  # fmt: skip
        if token is not None:
            digest = hashlib.sha256(token.encode()).digest()
            claims["ath"] = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        headers = {"typ": "dpop+jwt", "jwk": self._jwk}
        return jwt.encode(claims, self._key, "ES256", headers=headers)


def bound(provider: OidcProvider, key: Key, kind: str) -> str:
    headers = {"DPoP": key.proof("POST", f"{provider.url}/token")}
    got = provider.sign_in("alice", resource=f"urn:gateway:{kind}", headers=headers)
    assert got["token_type"] == "DPoP"
    return str(got["access_token"])


def call(house: House, token: str, scheme: str, proof: str | None = None) -> httpx2.Response:
    message = modern_call("tickets__read_ticket", {"id": 7})
    headers = {**modern_headers(message, token), "Authorization": f"{scheme} {token}"}
    headers |= {} if proof is None else {"DPoP": proof}
    with house.gw.client() as client:
        return client.post("/mcp", json=message, headers=headers)


@pytest.mark.parametrize("kind", ["es256", "opaque"])
def test_a_bound_token_is_no_bearer_token(provider: OidcProvider, house: House, kind: str) -> None:
    token = bound(provider, Key(), kind)
    assert call(house, token, "Bearer").status_code == 401
    assert call(house, token, "DPoP").status_code == 401


@pytest.mark.parametrize("kind", ["es256", "opaque"])
def test_a_bound_token_with_a_proof_by_another_key_is_refused(
    provider: OidcProvider, house: House, kind: str
) -> None:
    token = bound(provider, Key(), kind)
    proof = Key().proof("POST", f"{house.gw.url}/mcp", token)
    assert call(house, token, "DPoP", proof).status_code == 401


@pytest.mark.parametrize("kind", ["es256", "opaque"])
def test_a_bound_token_with_its_proof_reaches_a_tool_once(
    provider: OidcProvider, house: House, kind: str
) -> None:
    key = Key()
    token = bound(provider, key, kind)
    proof = key.proof("POST", f"{house.gw.url}/mcp", token)
    answer = call(house, token, "DPoP", proof)
    assert answer.status_code == 200, answer.text
    assert answer.json()["result"]["structuredContent"]["seen"]["subject"] == "acme|alice"
    assert call(house, token, "DPoP", proof).status_code == 401
