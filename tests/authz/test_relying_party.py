"""The relying party at a provider over HTTP: what it asks again, and what it makes of the answers."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from agentgw.authz.relying_party import RelyingParty
from agentgw.core.claims import IssuerRules
from agentgw.core.principal import Subject
from agentgw.core.recheck import Known, Renewed, SignInOver
from agentgw.core.sign_in import LoginRules, Person
from agentgw.errors import InvalidToken, UpstreamFailed
from agentgw.identity.authorization_server import ClientAccount
from agentgw.identity.oidc import OidcKeys
from agentgw.identity.provider import OpenIdProvider
from tests.harness import NO_TLS
from tests.scripted_issuer import ScriptedIssuer

pytestmark = pytest.mark.anyio
NOW = 1_795_400_000
ALICE = Person(Subject("acme", "alice", "acme|alice"), frozenset({"acme:group:support"}))
KNOWN = Known("rt-1", "agentgw", "n" * 22, NOW, ALICE)


@pytest.fixture
def issuer() -> Iterator[ScriptedIssuer]:
    with ScriptedIssuer().served() as running:
        running.nonce = KNOWN.nonce
        running.metadata = {"userinfo_endpoint": f"{running.url}/userinfo"}
        yield running


@pytest.fixture
async def party(issuer: ScriptedIssuer) -> AsyncIterator[RelyingParty]:
    rules = IssuerRules("acme", issuer.url, {}, groups_claim="groups")
    async with httpx2.AsyncClient(transport=httpx2.AsyncHTTPTransport(verify=NO_TLS)) as client:
        keys = OidcKeys(issuer.url, client, dev=True)
        account = ClientAccount("agentgw", "secret")
        provider = OpenIdProvider(issuer.url, account, client, keys, dev=True)
        login = LoginRules(rules, "agentgw", "openid", "https://gw", confidential=True, dev=True)
        yield RelyingParty(login, provider, time.time)


def answers(issuer: ScriptedIssuer, status: int = 200, **said: Any) -> None:
    issuer.token = lambda _: JSONResponse(said, status)


async def test_a_refresh_proves_the_client_and_its_id_token_tells_who_it_is(
    issuer: ScriptedIssuer, party: RelyingParty
) -> None:
    issuer.claims = {"groups": ["billing"]}
    answers(issuer, id_token=issuer.id_token(), refresh_token="rt-2")
    renewed = await party.renew(KNOWN)
    assert renewed.refresh == "rt-2"
    assert issuer.redeemed == [{"grant_type": "refresh_token", "refresh_token": "rt-1"}]
    assert (await party.who(renewed, KNOWN)).groups == {"acme:group:billing"}


async def test_without_an_id_token_userinfo_tells(
    issuer: ScriptedIssuer, party: RelyingParty
) -> None:
    shown: list[str] = []

    def userinfo(request: Request) -> Response:
        shown.append(request.headers["authorization"])
        return JSONResponse({"sub": "alice", "groups": ["admins"]})

    issuer.userinfo = userinfo
    assert (await party.who(Renewed("rt-2", None, "at-2"), KNOWN)).groups == {"acme:group:admins"}
    assert shown == ["Bearer at-2"]


async def test_userinfo_about_another_user_is_not_believed(
    issuer: ScriptedIssuer, party: RelyingParty
) -> None:
    issuer.userinfo = lambda _: JSONResponse({"sub": "mallory", "groups": ["admins"]})
    with pytest.raises(InvalidToken, match="another user"):
        await party.who(Renewed("rt-2", None, "at-2"), KNOWN)


async def test_an_id_token_of_a_stranger_or_about_another_is_not_believed(
    issuer: ScriptedIssuer, party: RelyingParty
) -> None:
    stranger = ScriptedIssuer()
    with pytest.raises(InvalidToken):
        await party.who(Renewed("rt-2", issuer.id_token(stranger.key), None), KNOWN)
    issuer.claims = {"sub": "mallory"}
    with pytest.raises(InvalidToken, match="another user"):
        await party.who(Renewed("rt-2", issuer.id_token(), None), KNOWN)


async def test_a_provider_that_tells_nothing_cannot_be_asked(
    issuer: ScriptedIssuer, party: RelyingParty
) -> None:
    with pytest.raises(UpstreamFailed, match="neither"):
        await party.who(Renewed("rt-2", None, None), KNOWN)
    for odd in (
        RedirectResponse("https://evil.example/"),
        JSONResponse({"error": "invalid_token"}, 401),
        Response("<html>"),
    ):
        issuer.userinfo = lambda _, odd=odd: odd
        with pytest.raises(UpstreamFailed):
            await party.who(Renewed("rt-2", None, "at-2"), KNOWN)


async def test_without_a_userinfo_endpoint_nobody_is_asked(
    issuer: ScriptedIssuer, party: RelyingParty
) -> None:
    issuer.metadata = {}
    with pytest.raises(UpstreamFailed, match="no userinfo_endpoint"):
        await party.who(Renewed("rt-2", None, "at-2"), KNOWN)


async def test_a_refusal_is_told_apart_from_silence(
    issuer: ScriptedIssuer, party: RelyingParty
) -> None:
    answers(issuer, 400, error="invalid_grant")
    with pytest.raises(SignInOver):
        await party.renew(KNOWN)
    answers(issuer, 401, error="invalid_client")
    with pytest.raises(UpstreamFailed, match="status 401"):
        await party.renew(KNOWN)
    answers(issuer, 503)
    with pytest.raises(UpstreamFailed, match="503"):
        await party.renew(replace(KNOWN, refresh="rt-9"))
