"""The laptop issuer is a real one, as far as it goes."""

from __future__ import annotations

import httpx2
import jwt
import pytest

from agentgw.demo.issuer import Issuer

GATEWAY = "http://127.0.0.1:7117/mcp"


def test_its_tokens_verify_with_the_keys_it_publishes() -> None:
    with Issuer() as issuer, httpx2.Client(trust_env=False) as client:
        about = client.get(f"{issuer.url}/.well-known/openid-configuration").json()
        keys = jwt.PyJWKSet.from_dict(client.get(about["jwks_uri"]).json())
        token = issuer.token("alice", "planner", GATEWAY)
    key = keys[jwt.get_unverified_header(token)["kid"]]
    claims = jwt.decode(token, key, ["ES256"], audience=GATEWAY, issuer=about["issuer"])
    assert (claims["sub"], claims["azp"], claims["groups"]) == ("alice", "planner", ["support"])
    assert claims["exp"] - claims["iat"] == 900


def test_two_issuers_share_no_key() -> None:
    with Issuer() as one, Issuer() as other:
        token = one.token("alice", "planner", GATEWAY)
        keys = httpx2.get(f"{other.url}/jwks.json", trust_env=False).json()
    assert jwt.get_unverified_header(token)["kid"] not in [key["kid"] for key in keys["keys"]]


def test_nobody_else_gets_a_token() -> None:
    with Issuer() as issuer, pytest.raises(KeyError):
        issuer.token("mallory", "planner", GATEWAY)
