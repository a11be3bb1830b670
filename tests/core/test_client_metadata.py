"""What a client may say of itself, and what is made of the name it shows."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgw.core.client_metadata import (
    WrongMetadata,
    is_metadata_url,
    matches,
    read_document,
    read_registration,
    readable,
)

URL = "https://app.example.com/oauth/client.json"
GOOD: dict[str, Any] = {
    "client_id": URL,
    "client_name": "Example App",
    "redirect_uris": ["http://127.0.0.1/callback", "https://app.example.com/cb"],
    "token_endpoint_auth_method": "none",
    "grant_types": ["authorization_code", "refresh_token"],
    "response_types": ["code"],
    "logo_uri": "https://app.example.com/logo.png",
}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in GOOD.items() if key != name}


def test_a_document_and_a_registration_say_the_same() -> None:
    found = read_document(GOOD, URL)
    assert (found.name, found.redirect_uris) == ("Example App", tuple(GOOD["redirect_uris"]))
    assert read_registration(without("client_id")) == found
    assert read_registration({"redirect_uris": ["http://localhost/cb"]}).name == "an unnamed client"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"client_id": URL + "/"}, "invalid_client_metadata"),
        ({"client_id": URL.upper()}, "invalid_client_metadata"),
        ({"client_id": None}, "invalid_client_metadata"),
        ({"client_secret": "x"}, "invalid_client_metadata"),
        ({"token_endpoint_auth_method": "client_secret_basic"}, "invalid_client_metadata"),
        ({"token_endpoint_auth_method": "private_key_jwt"}, "invalid_client_metadata"),
        ({"grant_types": ["implicit"]}, "invalid_client_metadata"),
        ({"grant_types": "authorization_code"}, "invalid_client_metadata"),
        ({"response_types": ["token"]}, "invalid_client_metadata"),
        ({"client_name": ""}, "invalid_client_metadata"),
        ({"client_name": "\u202e\u200b"}, "invalid_client_metadata"),
        ({"client_name": 7}, "invalid_client_metadata"),
        ({"redirect_uris": []}, "invalid_redirect_uri"),
        ({"redirect_uris": "https://app.example.com/cb"}, "invalid_redirect_uri"),
        ({"redirect_uris": ["https://app.example.com/cb"] * 21}, "invalid_redirect_uri"),
        ({"redirect_uris": ["http://app.example.com/cb"]}, "invalid_redirect_uri"),
        ({"redirect_uris": ["javascript:alert(1)"]}, "invalid_redirect_uri"),
        ({"redirect_uris": ["myapp:/callback"]}, "invalid_redirect_uri"),
        ({"redirect_uris": ["https://app.example.com/cb#x"]}, "invalid_redirect_uri"),
        ({"redirect_uris": ["https://app.example.com/cb", 7]}, "invalid_redirect_uri"),
    ],
)
def test_what_is_wrong_is_refused_with_its_code(changes: dict[str, Any], error: str) -> None:
    with pytest.raises(WrongMetadata) as caught:
        read_document({**GOOD, **changes}, URL)
    assert caught.value.error == error


@pytest.mark.parametrize("document", [None, [], "x", 7, without("redirect_uris")])
def test_what_is_no_metadata_is_refused(document: Any) -> None:
    with pytest.raises(WrongMetadata):
        read_registration(document)


def test_a_private_use_scheme_is_a_domain_backwards() -> None:
    uris = ["com.example.app:/callback"]
    assert read_registration({"redirect_uris": uris}).redirect_uris == tuple(uris)


@pytest.mark.parametrize(
    "url",
    [
        "http://app.example.com/c.json", "https://app.example.com", "https://app.example.com/",
        "https://app.example.com/a/../c.json", "https://app.example.com/./c.json",
        "https://app.example.com/c.json?x=1", "https://app.example.com/c.json#x",
        "https://user@app.example.com/c.json", "https://APP.example.com/c.json",
        "https://app.example.com/%2e%2e/c.json", "https://app.example.com/" + "c" * 1000,
        "desktop", "dyn-abc", "",
    ],
)  # fmt: skip
def test_what_names_no_document_in_one_way_only(url: str) -> None:
    assert not is_metadata_url(url)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "localhost:8080", "127.9.9.9:1"]
)
def test_plain_http_is_for_development_on_loopback(host: str) -> None:
    assert is_metadata_url(f"http://{host}/client.json", plain_http=True)
    assert not is_metadata_url(f"http://{host}/client.json")


@pytest.mark.parametrize(
    "host", ["app.example.com", "10.0.0.1", "localhost.example.com", "128.0.0.1"]
)
def test_plain_http_to_other_hosts_is_for_nobody(host: str) -> None:
    assert not is_metadata_url(f"http://{host}/client.json", plain_http=True)
    keyed = {**GOOD, "token_endpoint_auth_method": "private_key_jwt"}
    with pytest.raises(WrongMetadata):
        read_document({**keyed, "jwks_uri": f"http://{host}/keys"}, URL, plain_http=True)


def test_a_url_is_matched_to_the_letter_or_by_its_beginning() -> None:
    assert is_metadata_url(URL)
    assert matches(URL, URL) and matches(URL, "https://app.example.com/*") and matches(URL, "*")
    assert not matches(URL, URL[:-1]) and not matches(URL, "https://app.example.com/other/*")


@given(st.text(max_size=200))
def test_a_name_that_is_shown_neither_moves_nor_hides_text(name: str) -> None:
    shown = readable(name)
    assert len(shown) <= 80 and shown == shown.strip()
    assert all(c == " " or unicodedata.category(c)[0] not in "CZ" for c in shown)


@pytest.mark.parametrize("unseen", ["\u3164", "\uffa0", "\u115f", "\u2800", "\ufe0f", "\u034f"])
def test_a_name_of_letters_that_show_nothing_is_none(unseen: str) -> None:
    assert readable(unseen * 5) == ""
    assert readable(f"App{unseen}") == "App"
