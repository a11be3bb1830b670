"""Threat: a tool server whose metadata leads the gateway astray (RFC 9728, RFC 8414)."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.harness import wait_for
from tests.saas import House, Saas
from tests.saas import house as run_house

Twist = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with run_house(tmp_path_factory.mktemp("discovery")) as running:
        running.connect("honest")
        yield running


@pytest.fixture(autouse=True)
def honest_again(house: House) -> Iterator[None]:
    yield
    house.saas.reset()
    assert house.notes("honest") == "the notes of honest"
    assert house.browser("alice").open(page_of(house)).status_code == 200


def page_of(house: House) -> str:
    return f"{house.gw.url}/oauth/connect/saas"


def put(**changes: Any) -> Twist:
    return lambda document: document.update(changes)


def without(*names: str) -> Twist:
    return lambda document: [document.pop(name) for name in names]


RESOURCES: dict[str, Twist] = {
    "another resource": put(resource="https://bank.example/mcp"),
    "the resource's origin only": lambda document: document.update(
        resource=document["resource"].removesuffix("/mcp")
    ),
    "a longer path": lambda document: document.update(resource=document["resource"] + "/x"),
    "no resource": without("resource"),
    "a resource that is a list": lambda document: document.update(resource=[document["resource"]]),
    "no authorization server": put(authorization_servers=[]),
    "authorization servers that are no list": put(authorization_servers="https://as.example"),
    "a hundred authorization servers": put(authorization_servers=["https://as.example"] * 100),
    "an authorization server that is a file": put(authorization_servers=["file:///etc/passwd"]),
    "an authorization server with a user name": put(
        authorization_servers=["https://a:b@as.example"]
    ),
    "an authorization server whose host cannot be read": put(
        authorization_servers=["https://[::1"]
    ),
    "an authorization server whose host reads as another": put(
        authorization_servers=["https://as\u2100.example/"]
    ),
    "an authorization server that no header can name": put(
        authorization_servers=["https://\u4f8b.example"]
    ),
    "an authorization server that is nowhere": put(authorization_servers=["http://127.0.0.1:1"]),
}

SERVERS: dict[str, Twist] = {
    "another issuer": put(issuer="https://evil.example"),
    "an issuer with a slash more": lambda document: document.update(
        issuer=document["issuer"] + "/"
    ),
    "no issuer": without("issuer"),
    "no word of PKCE": without("code_challenge_methods_supported"),
    "plain PKCE only": put(code_challenge_methods_supported=["plain"]),
    "S256 as a string": put(code_challenge_methods_supported="S256"),
    "a token endpoint that is a file": put(token_endpoint="file:///etc/passwd"),
    "no token endpoint": without("token_endpoint"),
    "a script to authorize with": put(authorization_endpoint="javascript:alert(1)"),
    "data to authorize with": put(authorization_endpoint="data:text/html,x"),
    "a line feed in the endpoint": put(authorization_endpoint="https://as.example/\nX: 1"),
    "a user name in the endpoint": put(authorization_endpoint="https://u@as.example/a"),
}


def refused(house: House) -> None:
    forms = len(house.saas.forms)
    answer = house.browser("alice").open(page_of(house))
    assert answer.status_code == 502 and "Nothing was connected" in answer.text, answer.text
    assert len(house.saas.forms) == forms


@pytest.mark.parametrize("name", RESOURCES)
def test_resource_metadata_that_is_not_this_servers_leads_nowhere(house: House, name: str) -> None:
    house.saas.prm = RESOURCES[name]
    refused(house)


@pytest.mark.parametrize("name", SERVERS)
def test_server_metadata_that_a_client_must_not_use_leads_nowhere(house: House, name: str) -> None:
    house.saas.metadata = SERVERS[name]
    refused(house)


def test_where_the_challenge_says_is_the_only_place_to_look(house: House) -> None:
    house.saas.challenge = f'Bearer resource_metadata="{house.saas.url}/nowhere"'
    house.saas.asked.clear()
    refused(house)
    assert house.saas.asked == []


@pytest.mark.parametrize(
    "challenge",
    [
        'Bearer resource_metadata="file:///etc/passwd"',
        'Bearer resource_metadata="http://169.254.169.254/latest"' + ", x=" * 3000,
        "Bearer " + "a" * 9000,
        'Bearer scope="' + "s " * 5000 + '"',
    ],
    ids=["file", "long", "one word", "scopes"],
)
def test_a_hostile_challenge_breaks_nothing(house: House, challenge: str) -> None:
    house.saas.challenge = challenge
    assert house.browser("alice").open(page_of(house)).status_code in (200, 502)


def test_more_scopes_than_anybody_could_agree_to_are_not_asked_for(house: House) -> None:
    house.saas.prm = put(scopes_supported=[f"s{number}" for number in range(200)])
    refused(house)


@pytest.mark.parametrize("size", [300_000, 3_000_000])
def test_metadata_without_end_is_cut_off(house: House, size: int) -> None:
    house.saas.prm = put(more="x" * size)
    refused(house)


def test_metadata_nested_without_end_is_refused(house: House) -> None:
    deep: Any = []
    for _ in range(500):
        deep = [deep]
    house.saas.metadata = put(issuer=deep)
    refused(house)


def test_a_server_that_names_another_authorization_server_than_configured_gets_no_secret(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("pinned")
    other = Saas().start()
    try:
        with run_house(folder) as running:
            oauth = {"issuer": running.saas.url, "client_id": "gateway", "client_secret": "s3cret!"}
            running.gw.config["servers"]["saas"]["auth"]["oauth"] = oauth
            running.gw.reload()
            running.saas.prm = put(authorization_servers=[other.url])
            answer = running.browser("alice").open(page_of(running))
            assert answer.status_code == 502 and "than the configured" in answer.text
            assert other.forms == [] and other.asked == []
    finally:
        other.stop()


def test_an_authorization_server_that_says_nothing_holds_up_nobody_else(house: House) -> None:
    silent = socket.socket()
    silent.bind(("127.0.0.1", 0))
    silent.listen(16)
    stop = threading.Event()
    try:
        where = f"http://127.0.0.1:{silent.getsockname()[1]}"
        house.saas.prm = put(authorization_servers=[where])
        answers: list[int] = []

        def visit() -> None:
            answers.append(house.browser("alice").open(page_of(house)).status_code)

        visitor = threading.Thread(target=visit)
        visitor.start()
        assert house.notes("honest") == "the notes of honest"
        wait_for(lambda: answers, "the page to give up", 15)
        visitor.join(5)
        assert answers == [502]
    finally:
        stop.set()
        silent.close()


@pytest.fixture(scope="module")
def within() -> Iterator[Saas]:
    """A server at an address that only the guard refuses: 0.0.0.0 leads to this very host."""
    running = Saas().start()
    yield running
    running.stop()


def test_no_document_is_fetched_from_an_address_that_others_must_not_name(
    house: House, within: Saas
) -> None:
    inside = f"http://0.0.0.0:{within.port}"
    house.saas.prm = put(authorization_servers=[inside])
    refused(house)
    house.saas.reset()
    house.saas.challenge = (
        f'Bearer resource_metadata="{inside}/.well-known/oauth-protected-resource/mcp"'
    )
    refused(house)
    assert within.asked == []


def test_no_code_or_secret_goes_to_an_address_that_others_must_not_name(
    house: House, within: Saas
) -> None:
    def lead_inside(document: dict[str, Any]) -> None:
        document["token_endpoint"] = f"http://0.0.0.0:{within.port}/token"

    house.saas.metadata = lead_inside
    answer = house.browser("alice").connect(page_of(house), "alice")
    assert answer.status_code == 502
    assert within.forms == [] and within.asked == []
