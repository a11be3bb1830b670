"""The laptop issuer is a real one, as far as it goes."""

from __future__ import annotations

import hashlib
from urllib.parse import parse_qs, urlsplit

import httpx2
import jwt
import pytest

from agentgw.core.canonical import b64url
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


CALLBACK = "http://127.0.0.1:7117/oauth/callback"


def signed_in(issuer: Issuer, client: httpx2.Client, scope: str) -> tuple[httpx2.Response, str]:
    """The token answer to alice's code, and the secret of the client that had it."""
    secret = issuer.register("agentgw", CALLBACK)
    asked = {
        "response_type": "code", "client_id": "agentgw", "redirect_uri": CALLBACK, "scope": scope,
        "code_challenge": b64url(hashlib.sha256(b"v" * 43).digest()),
        "code_challenge_method": "S256", "nonce": "n",
    }  # fmt: skip
    form = {**asked, "user": "alice", "password": issuer.passwords["alice"]}
    back = client.post(f"{issuer.url}/authorize", data=form)
    code = parse_qs(urlsplit(back.headers["location"]).query)["code"][0]
    more = {"code": code, "redirect_uri": CALLBACK, "code_verifier": "v" * 43}
    return ask(issuer, client, secret, grant_type="authorization_code", **more), secret


def ask(issuer: Issuer, client: httpx2.Client, secret: str, **form: str) -> httpx2.Response:
    return client.post(f"{issuer.url}/token", data=form, auth=("agentgw", secret))


def groups(answer: httpx2.Response) -> list[str]:
    claims = jwt.decode(answer.json()["id_token"], options={"verify_signature": False})
    found: list[str] = claims["groups"]
    return found


def test_a_refresh_token_is_for_those_who_ask_for_it_works_once_and_tells_todays_groups() -> None:
    with Issuer() as issuer, httpx2.Client(trust_env=False) as client:
        plain, _ = signed_in(issuer, client, "openid")
        assert "refresh_token" not in plain.json()
        first, secret = signed_in(issuer, client, "openid offline_access")
        issuer.groups["alice"] = ("billing",)
        token = first.json()["refresh_token"]
        stranger = ask(issuer, client, "wrong", grant_type="refresh_token", refresh_token=token)
        assert stranger.status_code == 401
        second = ask(issuer, client, secret, grant_type="refresh_token", refresh_token=token)
        assert (groups(first), groups(second)) == (["support"], ["billing"])
        assert "nonce" not in jwt.decode(
            second.json()["id_token"], options={"verify_signature": False}
        )
        again = ask(issuer, client, secret, grant_type="refresh_token", refresh_token=token)
        assert (again.status_code, again.json()) == (400, {"error": "invalid_grant"})
        issuer.disabled.add("alice")
        token = second.json()["refresh_token"]
        ended = ask(issuer, client, secret, grant_type="refresh_token", refresh_token=token)
        assert (ended.status_code, ended.json()) == (400, {"error": "invalid_grant"})
