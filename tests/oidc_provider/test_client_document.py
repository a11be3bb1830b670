"""Our own client metadata document at a real authorization server, by https both ways: oidc-provider fetches
it and our keys, and takes us for the client it describes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.certificates import LOOPBACK, Issued, client_context, issue
from tests.harness import allow_all
from tests.oidc_provider.notes import SCOPE, notes_server
from tests.oidc_provider.server import OidcProvider
from tests.people import Page, Place, Visitor, place, query_of

pytestmark = pytest.mark.oidc_provider


@dataclass
class House:
    """A gateway by https before a notes server whose authorization server is `provider`."""

    here: Place
    provider: OidcProvider
    authority: Issued

    def call(self) -> dict[str, object]:
        """What the gateway answers to a call of alice's agent."""
        token = self.here.issuer.token("alice", "planner", f"{self.here.url}/mcp")
        answer: dict[str, object] = self.here.gateway.call("notes__whose", token).json()
        return answer

    def connect(self, alice: Visitor, link: str) -> Page:
        """Follow a link: sign in at the gateway, agree, sign in at the provider, agree there."""
        issuer, page = self.here.issuer, alice.open(link)
        if page.url.startswith(issuer.url):
            form = page.form("/authorize")
            page = alice.submit(page, form, user="alice", password=issuer.passwords["alice"])
        page = alice.submit(page, page.form("/oauth/connect/notes"), until=self.provider.url)
        page = alice.open(alice.passed[-1])
        page = alice.submit(page, page.forms[0], login="alice", password="any")
        return alice.submit(page, page.forms[0])


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, packages: Path) -> Iterator[House]:
    authority = issue("authority of servers", ca=True)
    folder = tmp_path_factory.mktemp("provider")
    (folder / "authority.pem").write_text(authority.pem)
    issue("127.0.0.1", authority, LOOPBACK).write(folder / "server.pem")
    provider = OidcProvider(packages, tls=folder)
    provider.start()
    try:
        with notes_server(provider) as notes:
            auth = {"mode": "oauth", "oauth": {"scope": SCOPE}}
            changes = {
                "servers": {"notes": {"url": notes.resource, "auth": auth}},
                "grants": allow_all("notes"),
            }
            with place(tmp_path_factory.mktemp("gateway"), changes, tls=authority) as here:
                yield House(here, provider, authority)
    finally:
        provider.stop()


def test_a_user_connects_where_nobody_registered_the_gateway(house: House) -> None:
    refused = house.call()["error"]
    assert isinstance(refused, dict) and refused["code"] == 46008, refused
    with Visitor(client_context(house.authority)) as alice:
        page = house.connect(alice, refused["data"]["url"])
    assert "is connected" in page.words
    assert "the notes of alice" in str(house.call()["result"])


def test_the_provider_knows_the_gateway_by_the_url_of_its_document(house: House) -> None:
    with Visitor(client_context(house.authority)) as alice:
        house.here.sign_in(alice)
        page = alice.open(f"{house.here.url}/oauth/connect/notes")
        page = alice.submit(page, page.form("/oauth/connect/notes"), until=house.provider.url)
    asked = query_of(alice.passed[-1])
    assert asked["client_id"] == f"{house.here.url}/oauth/client.json"
    assert asked["client_id"].startswith("https://")
