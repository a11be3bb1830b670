"""Threat: a credential of one tool server, authorization server or user that is sent to another."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.routing import Route

from tests.harness import allow_all
from tests.integration.toolserver import Recording, serving
from tests.saas import House, Saas
from tests.saas import house as run_house


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with run_house(tmp_path_factory.mktemp("origin")) as found:
        found.connect("alice")
        yield found


@pytest.fixture
def house(running: House) -> Iterator[House]:
    """The house as it was at first, alice being connected."""
    assert running.notes("alice") == "the notes of alice"
    config = copy.deepcopy(running.gw.config)
    yield running
    running.saas.reset()
    running.gw.config.clear()
    running.gw.config.update(config)
    running.gw.reload()


@pytest.fixture
def other() -> Iterator[Saas]:
    running = Saas().start()
    yield running
    running.stop()


def test_a_server_that_moved_gets_no_credential_of_the_old_place(house: House, other: Saas) -> None:
    house.gw.config["servers"]["saas"]["url"] = other.mcp
    house.gw.reload()
    assert house.refused("alice")["data"]["reason"] == "connect_required"
    assert other.bearers() == set()


def test_a_server_under_another_name_gets_no_credential_of_the_first(house: House) -> None:
    server = house.gw.config["servers"].pop("saas")
    house.gw.config["servers"]["again"] = server
    house.gw.config["grants"] = allow_all("again")
    house.gw.reload()
    answer = house.call("alice", "again__notes").json()
    assert answer["error"]["code"] == 46008


def test_another_authorization_server_means_to_connect_again_and_back_finds_the_old(
    house: House, other: Saas
) -> None:
    house.saas.prm = lambda document: document.update(authorization_servers=[other.url])
    house.gw.reload()
    before = len(house.saas.forms)
    assert house.refused("alice")["data"]["reason"] == "connect_required"
    assert other.forms == [] and other.bearers() == set() and len(house.saas.forms) == before
    house.saas.reset()
    house.gw.reload()
    assert house.notes("alice") == "the notes of alice"


def test_a_cookie_set_for_one_user_is_not_brought_for_another(house: House) -> None:
    for user in ("carol", "dave"):
        house.connect(user)
        assert house.notes(user) == f"the notes of {user}"
    house.saas.expire()
    assert house.notes("carol") == "the notes of carol"
    assert set(house.saas.cookies) == {None}


def test_a_refresh_token_is_not_shown_to_another_authorization_server(
    house: House, other: Saas
) -> None:
    house.saas.expire()
    house.saas.prm = lambda document: document.update(authorization_servers=[other.url])
    assert house.refused("alice")["data"]["reason"] == "connect_required"
    assert other.forms == []


def test_another_client_of_ours_does_not_use_what_the_first_was_given(house: House) -> None:
    oauth = {"issuer": house.saas.url, "client_id": "another", "client_secret": "s"}
    house.gw.config["servers"]["saas"]["auth"]["oauth"] = oauth
    house.gw.reload()
    seen = len(house.saas.seen)
    assert house.refused("alice")["data"]["reason"] == "connect_required"
    assert all(sent is None for _, sent, _ in house.saas.seen[seen:])


def test_a_redirect_of_the_token_endpoint_is_not_followed(house: House) -> None:
    async def trap(request: Request) -> RedirectResponse:
        return RedirectResponse(f"{house.saas.url}/token", 307)

    recording = Recording(Starlette(routes=[Route("/token", trap, methods=["POST"])]))
    with serving(recording) as elsewhere:
        house.saas.metadata = lambda document: document.update(token_endpoint=f"{elsewhere}/token")
        before = len(house.saas.forms)
        answer = house.browser("bob").connect(house.link("bob"), "bob")
        assert answer.status_code == 502
        assert len(recording.requests) == 1 and len(house.saas.forms) == before


def test_two_servers_of_one_authorization_server_have_credentials_of_their_own(
    house: House,
) -> None:
    first = house.gw.config["servers"]["saas"]
    house.gw.config["servers"]["twin"] = {**first}
    house.gw.config["grants"] = allow_all("saas", "twin")
    house.gw.reload()
    assert house.call("alice", "twin__notes").json()["error"]["code"] == 46008
    assert house.notes("alice") == "the notes of alice"
