"""Clients that register themselves: off unless wanted, bounded, and never trusted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from agentgw.core.client_metadata import ClientMetadata
from agentgw.core.consent import Consent
from agentgw.core.offer import Choice
from agentgw.core.principal import Subject
from agentgw.registry.consents import Consents
from agentgw.registry.dynamic_clients import DynamicClients
from agentgw.registry.schema import open_database
from tests.harness import stay_within_an_hour
from tests.login import App, attacked_place, tools_of, web
from tests.people import Place, Visitor

CALLBACK = "http://127.0.0.1:45123/callback"
AGENTS: dict[str, Any] = {
    "anybody": {"login": {"dynamic": True}},
    "desktop": {"login": {"redirect_uris": [CALLBACK]}},
}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with attacked_place(tmp_path_factory.mktemp("dynamic"), agents=AGENTS) as place:
        yield place


def register(here: Place, document: Any, **headers: str) -> httpx2.Response:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    sent = {"Content-Type": "application/json", **headers}
    with web() as client:
        return client.post(f"{here.url}/oauth/register", content=body, headers=sent)


def metadata(here: Place) -> dict[str, Any]:
    with web() as client:
        found = client.get(f"{here.url}/.well-known/oauth-authorization-server")
    document: dict[str, Any] = found.json()
    return document


def test_a_client_registers_and_its_user_lets_it_in(here: Place) -> None:
    answer = register(here, {"client_name": "New App", "redirect_uris": [CALLBACK]})
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert made["token_endpoint_auth_method"] == "none" and "client_secret" not in made
    assert answer.headers["cache-control"] == "no-store"
    assert metadata(here)["registration_endpoint"] == f"{here.url}/oauth/register"
    app = App(here, made["client_id"])
    with Visitor() as visitor:
        page = app.consent_page(visitor)
        assert "New App" in page.words
        given = app.tokens(visitor)
    assert "tickets__echo" in tools_of(here, given["access_token"])
    (record,) = [r for r in here.gateway.records() if r["name"] == made["client_id"]][:1]
    assert (record["method"], record["detail"]["agent"]) == ("oauth/register", "anybody")


def test_nobody_may_where_no_agent_is_for_it(tmp_path: Path) -> None:
    with attacked_place(tmp_path, agents={"desktop": AGENTS["desktop"]}) as place:
        assert register(place, {"redirect_uris": [CALLBACK]}).status_code == 404
        assert "registration_endpoint" not in metadata(place)
        assert "client_id_metadata_document_supported" not in metadata(place)


@pytest.mark.parametrize(
    ("document", "error"),
    [
        ({}, "invalid_redirect_uri"),
        ({"redirect_uris": ["javascript:alert(document.cookie)"]}, "invalid_redirect_uri"),
        ({"redirect_uris": ["data:text/html,<script>"]}, "invalid_redirect_uri"),
        ({"redirect_uris": ["http://evil.example/cb"]}, "invalid_redirect_uri"),
        ({"redirect_uris": ["https://x@evil.example/cb"]}, "invalid_redirect_uri"),
        (
            {"redirect_uris": [CALLBACK], "token_endpoint_auth_method": "client_secret_post"},
            "invalid_client_metadata",
        ),
        ({"redirect_uris": [CALLBACK], "client_name": "\u0000"}, "invalid_client_metadata"),
        ([], "invalid_client_metadata"),
        (b"{", "invalid_client_metadata"),
        (b"\xff\xfe", "invalid_client_metadata"),
        (b"[" * 10_000, "invalid_client_metadata"),
        (b'"' + b"x" * 20_000 + b'"', "invalid_client_metadata"),
    ],
)
def test_what_is_wrong_is_refused_and_nothing_kept(here: Place, document: Any, error: str) -> None:
    answer = register(here, document)
    assert (answer.status_code, answer.json()["error"]) == (400, error), answer.text


def test_other_forms_and_methods_are_refused(here: Place) -> None:
    answer = register(here, b"redirect_uris=x", **{"Content-Type": "text/plain"})
    assert answer.status_code == 400
    with web() as client:
        assert client.get(f"{here.url}/oauth/register").status_code == 405


def test_a_script_in_a_name_is_text(here: Place) -> None:
    name = "<script>alert(1)</script>"
    made = register(here, {"client_name": name, "redirect_uris": [CALLBACK]}).json()
    with Visitor() as visitor:
        page = App(here, made["client_id"]).consent_page(visitor)
        assert "<script>" not in page.html and "alert(1)" in page.words


def test_a_registered_client_is_no_other_agent(here: Place) -> None:
    made = register(here, {"client_name": "desktop", "redirect_uris": [CALLBACK]}).json()
    with Visitor() as visitor:
        page = App(here, made["client_id"]).consent_page(visitor)
        assert "anybody" in page.words


def test_a_flood_is_answered_429(tmp_path: Path) -> None:
    with attacked_place(tmp_path, agents=AGENTS) as place:
        stay_within_an_hour()
        statuses = [register(place, {"redirect_uris": [CALLBACK]}).status_code for _ in range(22)]
        assert statuses == [201] * 20 + [429] * 2


def test_the_one_used_the_longest_ago_goes_first(tmp_path: Path) -> None:
    engine = open_database(tmp_path / "state.db")
    clients = DynamicClients(engine, most=2)
    app = ClientMetadata("App", (CALLBACK,))
    clients.add("a", app, 0)
    clients.add("b", app, 1)
    assert clients.find("a", 5000) == app
    clients.add("c", app, 5001)
    assert clients.find("b", 5002) is None
    assert clients.find("a", 5002) == clients.find("c", 5002) == app
    engine.dispose()


def test_strangers_push_out_no_client_that_a_user_let_in(tmp_path: Path) -> None:
    engine = open_database(tmp_path / "state.db")
    clients, app = DynamicClients(engine, most=3), ClientMetadata("App", (CALLBACK,))
    clients.add("of-alice", app, 0)
    nothing: frozenset[str] = frozenset()
    choice = Choice(Consent(nothing, nothing, nothing), nothing, 60)
    subject = Subject("laptop", "alice", "laptop|alice")
    Consents(engine).remember(subject, "of-alice", "anybody", "https://gw.example/mcp", choice, 1)
    for number in range(10):
        clients.add(f"stranger-{number}", app, 10_000 + number)
    assert clients.find("of-alice", 20_000) == app
    assert clients.find("stranger-9", 20_000) == app
    assert clients.find("stranger-7", 20_000) is None
    engine.dispose()
