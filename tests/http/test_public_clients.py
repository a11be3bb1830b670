"""Clients that prove nothing: where they may come, and how much they may have us write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from agentgw.core.certificate import ClientCertificate
from agentgw.core.oauth_client import OAuthClient
from agentgw.errors import OAuthError
from agentgw.http.client_request import Applicant
from agentgw.http.public_clients import UNPROVEN, Unproven, WithPublicClients
from agentgw.registry.hourly import Hourly
from agentgw.registry.schema import open_database
from agentgw.sts.clients import AuthenticatedClient
from tests.sts.sts_under_test import Clock

pytestmark = pytest.mark.anyio

DESKTOP = OAuthClient(
    "https://app.example/id", "desktop", "App", "metadata", ("https://app.example/cb",)
)
SERVER = OAuthClient("server", "server", "server", "registered", (), public=False)

KEYED = OAuthClient(
    "https://keyed.example/id",
    "desktop",
    "App",
    "metadata",
    ("https://keyed.example/cb",),
    public=False,
)


class Known:
    """Two clients by their id; a third has a document that cannot be read."""

    async def find(self, client_id: str) -> OAuthClient | None:
        if client_id == "https://broken.example/id":
            raise OAuthError("invalid_client_metadata", "its document cannot be used")
        return {DESKTOP.client_id: DESKTOP, "server": SERVER}.get(client_id)

    async def prove(self, form: Mapping[str, str]) -> OAuthClient | None:
        """The one assertion there is was made by a client with a key in its document."""
        return KEYED if form["client_assertion"] == "of keyed" else None


class Proven:
    """Every credential proves the server."""

    async def authenticate(
        self,
        authorization: str | None,
        form: Mapping[str, str],
        certificate: ClientCertificate | None,
    ) -> AuthenticatedClient:
        if authorization is None and "client_secret" not in form:
            raise OAuthError("invalid_client", "no credentials", status=401)
        return AuthenticatedClient("server", "client_secret_basic")


def clients() -> WithPublicClients:
    return WithPublicClients(Proven(), Known(), ("authorization_code",))


async def test_a_public_client_comes_by_its_name_for_the_grants_of_logins_only() -> None:
    form = {"client_id": DESKTOP.client_id, "grant_type": "authorization_code"}
    found = await clients().authenticate(None, form, None)
    assert (found.agent, found.id, found.method, found.evidence) == (
        "desktop", DESKTOP.client_id, "none", "consent"
    )  # fmt: skip
    for changed in (
        {"grant_type": "urn:ietf:params:oauth:grant-type:token-exchange"},
        {"grant_type": ""},
        {"client_id": "server"},
        {"client_id": "nobody"},
        {"client_id": "https://broken.example/id"},
        {"client_assertion": "x"},
        {"client_assertion_type": "x"},
    ):
        with pytest.raises(OAuthError) as refused:
            await clients().authenticate(None, {**form, **changed}, None)
        assert (refused.value.error, refused.value.status) == ("invalid_client", 401)


async def test_a_client_that_shows_credentials_is_judged_by_them() -> None:
    form = {"client_id": DESKTOP.client_id, "grant_type": "authorization_code"}
    assert (await clients().authenticate("Basic x", form, None)).agent == "server"
    with_secret = {**form, "client_secret": "x"}
    assert (await clients().authenticate(None, with_secret, None)).id == "server"


async def test_what_strangers_have_us_keep_is_bounded_by_the_hour(tmp_path: Path) -> None:
    clock, engine = Clock(), open_database(tmp_path / "state.db")
    unproven = Unproven(Hourly(engine), clock)
    public = AuthenticatedClient("desktop", "none", "consent", "x")
    keyed = AuthenticatedClient("desktop", "private_key_jwt", "consent", KEYED.client_id)

    def by(client: AuthenticatedClient) -> Applicant:
        return Applicant(client, "event-1", "192.0.2.1", None)

    for _ in range(UNPROVEN.per_source):
        await unproven.count(by(public))
    for stranger in (public, keyed):
        with pytest.raises(OAuthError) as refused:
            await unproven.count(by(stranger))
        assert refused.value.status == 429
    await unproven.count(by(AuthenticatedClient("server", "client_secret_basic")))
    clock.now += 3600
    await unproven.count(by(public))
    engine.dispose()


async def test_a_client_with_a_key_in_its_document_comes_with_it_where_logins_are_redeemed() -> (
    None
):
    form = {"client_assertion": "of keyed", "grant_type": "authorization_code"}
    found = await clients().authenticate(None, form, None)
    assert (found.agent, found.id, found.method, found.evidence) == (
        "desktop", KEYED.client_id, "private_key_jwt", "consent"
    )  # fmt: skip
    exchange = {**form, "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange"}
    for wrong in (exchange, {**form, "client_assertion": "of another"}):
        with pytest.raises(OAuthError, match="no credentials"):
            await clients().authenticate(None, wrong, None)
    with pytest.raises(OAuthError, match="no credentials"):
        await clients().authenticate(None, {"client_id": KEYED.client_id}, None)
