"""Redirect URIs that are almost the registered one: the code never goes where it was not registered to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgw.core.redirect_uri import (
    csp_source,
    is_redirect_uri,
    redirect_host,
    redirects_to,
    with_answer,
)
from tests.login import AUTHORIZE, App, agents, answered, attacked_place, web
from tests.people import Place, Visitor, query_of

WEB = "https://app.example.com/cb"
LOOPBACK = "http://127.0.0.1/callback"

TRICKS = [
    "https://app.example.com/cb/",
    "https://app.example.com/cb?x=1",
    "https://app.example.com/cb#x",
    "https://app.example.com/cb#",
    "https://app.example.com/CB",
    "https://APP.example.com/cb",
    "HTTPS://app.example.com/cb",
    "https://app.example.com:443/cb",
    "https://app.example.com./cb",
    "https://app.example.com/./cb",
    "https://app.example.com/x/../cb",
    "https://app.example.com/%63b",
    "https://app.example.com//cb",
    "https://app.example.com\\cb",
    "https://app.example.com\\@evil.example/cb",
    "https://app.example.com@evil.example/cb",
    "https://app.example.com:x@evil.example/cb",
    "https://evil.example/cb?https://app.example.com/cb",
    "https://evil.example#https://app.example.com/cb",
    "https://app.example.com.evil.example/cb",
    "https://evilapp.example.com/cb",
    "https://app.example.co/cb",
    "https://app.example.com/cb\n",
    "https://app.example.com/cb\r\nLocation: https://evil.example",
    "https://app.example.com/cb\0",
    " https://app.example.com/cb",
    "https://app.example.com/cb ",
    "https:/app.example.com/cb",
    "https:app.example.com/cb",
    "//app.example.com/cb",
    "/cb",
    "http://app.example.com/cb",
    "https://\u0430pp.example.com/cb",
    "https://app。example.com/cb",
    "javascript:alert(1)//https://app.example.com/cb",
    "data:text/html,<script>",
    "",
]
LOOPBACK_TRICKS = [
    "http://127.0.0.1:8080/callback/",
    "http://127.0.0.1:8080/Callback",
    "http://127.0.0.1:8080/callback?x=1",
    "http://127.0.0.1:8080/callback#x",
    "http://127.0.0.1:8080",
    "http://127.0.0.1:8080@evil.example/callback",
    "http://127.0.0.1:@evil.example/callback",
    "http://127.0.0.1:8080\\@evil.example/callback",
    "http://127.0.0.1.evil.example/callback",
    "http://127.0.0.1.evil.example:8080/callback",
    "http://127.0.0.1:0/callback",
    "http://127.0.0.1:/callback",
    "http://127.0.0.1:65536/callback",
    "http://127.0.0.1:080/callback",
    "http://127.0.0.1:80٨0/callback",
    "http://127.0.0.1:-1/callback",
    "http://127.0.0.1: 80/callback",
    "http://127.0.0.2:8080/callback",
    "http://127.1:8080/callback",
    "http://2130706433:8080/callback",
    "http://0x7f000001:8080/callback",
    "http://0177.0.0.1:8080/callback",
    "http://127.0.0.01:8080/callback",
    "http://0.0.0.0:8080/callback",
    "http://[::1]:8080/callback",
    "http://[::ffff:127.0.0.1]:8080/callback",
    "http://localhost:8080/callback",
    "http://localhost.evil.example:8080/callback",
    "https://127.0.0.1:8080/callback",
    "HTTP://127.0.0.1:8080/callback",
    "ws://127.0.0.1:8080/callback",
]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder: Path = tmp_path_factory.mktemp("login")
    with attacked_place(folder) as running:
        yield running


@pytest.mark.parametrize("uri", TRICKS)
def test_a_web_redirect_is_the_registered_one_to_the_letter(uri: str) -> None:
    assert redirects_to(WEB, [WEB])
    assert not redirects_to(uri, [WEB])


@pytest.mark.parametrize("uri", LOOPBACK_TRICKS)
def test_a_loopback_redirect_differs_in_its_port_only(uri: str) -> None:
    assert redirects_to("http://127.0.0.1:8080/callback", [LOOPBACK])
    assert not redirects_to(uri, [LOOPBACK])


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
def test_each_loopback_host_is_taken_where_it_is_registered(host: str) -> None:
    registered = f"http://{host}:3000/cb?a=b"
    others = {"127.0.0.1", "[::1]", "localhost"} - {host}
    for port in ("", ":1", ":3000", ":65535"):
        assert redirects_to(f"http://{host}{port}/cb?a=b", [registered])
        assert not any(
            redirects_to(f"http://{other}{port}/cb?a=b", [registered]) for other in others
        )


@pytest.mark.parametrize(
    "uri",
    [
        "javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "vbscript:x", "about:blank",
        "blob:https://app.example.com/x", "view-source:https://app.example.com", "http://app.example.com",
        "https://user@app.example.com/", "https:///cb", "https://", "mailto:a@b", "", "x", "app://a b",
        "https://app;frame-ancestors/", "https://app,x/", "https://app'x/", "https://app.example.com;x:1/",
        "https://%65vil.example/", "https://app.example.com:/", "https://a*b.example/", "https://[::1;x]/",
        "https://app.example.com/" + "a" * 2000, "https://app.example.com:99999/", "https://[::1/",
    ],
)  # fmt: skip
def test_what_leads_to_no_client_is_refused_even_where_it_is_registered(uri: str) -> None:
    assert not is_redirect_uri(uri)
    assert not redirects_to(uri, [uri])


@pytest.mark.parametrize(
    "uri", ["vscode://vscode.github-authentication/did-authenticate", "com.example.app:/cb"]
)
def test_a_scheme_of_the_clients_own_is_taken_to_the_letter(uri: str) -> None:
    assert redirects_to(uri, [uri])
    assert not redirects_to(uri + "/", [uri])


@given(st.text(min_size=0, max_size=60), st.integers(0, 70))
def test_nothing_put_into_a_registered_uri_is_taken(inserted: str, at: int) -> None:
    uri = WEB[:at] + inserted + WEB[at:]
    assert redirects_to(uri, [WEB]) == (uri == WEB)


@given(st.text(min_size=0, max_size=30), st.integers(0, len(LOOPBACK)))
def test_nothing_but_a_port_put_into_a_loopback_uri_is_taken(inserted: str, at: int) -> None:
    uri = LOOPBACK[:at] + inserted + LOOPBACK[at:]
    taken = redirects_to(uri, [LOOPBACK])
    port = inserted.removeprefix(":")
    plain = port.isascii() and port.isdigit() and not port.startswith("0") and len(port) <= 5
    by_port = uri == f"http://127.0.0.1:{port}/callback" and plain and int(port) <= 65535
    assert taken == (uri == LOOPBACK or by_port)


@given(
    st.lists(st.sampled_from([WEB, LOOPBACK, "http://localhost/cb"]), max_size=3),
    st.sampled_from(["http", "https", "HTTP", "ftp"]),
    st.sampled_from(["127.0.0.1", "localhost", "[::1]", "app.example.com", "evil.example", "a@b"]),
    st.sampled_from(["", ":", ":1", ":99999", ":080", ":80"]),
    st.sampled_from(["", "/", "/cb", "/callback", "/cb?x", "/cb#", "/../cb", "\\cb"]),
)
def test_what_is_taken_has_scheme_host_and_path_of_one_that_is_registered(
    registered: list[str], scheme: str, host: str, port: str, path: str
) -> None:
    uri = f"{scheme}://{host}{port}{path}"
    if redirects_to(uri, registered):
        asked = urlsplit(uri)
        assert any(
            (asked.scheme, asked.hostname, asked.path, asked.query)
            == (one.scheme, one.hostname, one.path, one.query)
            and (asked.port == one.port or one.hostname in ("127.0.0.1", "localhost"))
            for one in map(urlsplit, registered)
        )


@given(st.text(max_size=50), st.text(max_size=50))
def test_an_answer_stays_in_the_query(state: str, code: str) -> None:
    for uri in (WEB, f"{WEB}?tenant=7", LOOPBACK):
        answered = with_answer(uri, {"code": code, "state": state})
        assert answered.startswith(uri) and answered.isascii() and answered.isprintable()
        assert "#" not in answered and " " not in answered


def test_a_scheme_of_the_clients_own_is_shown_and_never_the_word_behind_it() -> None:
    assert redirect_host("com.evil.app://login.example.com/cb") == "com.evil.app:"
    assert redirect_host("com.evil.app:/cb") == "com.evil.app:"
    assert redirect_host("https://app.example.com:8443/cb") == "app.example.com"
    assert redirect_host("http://[::1]:80/cb") == "::1"


def test_the_page_names_no_site_that_a_program_of_this_computer_only_spells(tmp_path: Path) -> None:
    app_url = "com.evil.app://login.example.com/cb"
    known = agents()
    known["desktop"]["login"]["redirect_uris"].append(app_url)
    with attacked_place(tmp_path, agents=known) as place, Visitor() as alice:
        page = App(place, redirect_uri=app_url).consent_page(alice)
        assert "com.evil.app:" in page.words and "login.example.com" not in page.words
        assert "a program on this computer" in page.words


def test_the_csp_of_the_page_names_where_it_may_lead() -> None:
    assert csp_source(f"{WEB}?a=b;c") == "https://app.example.com"
    assert csp_source("http://127.0.0.1:80/x") == "http://127.0.0.1:80"
    assert csp_source("http://[::1]:80/x") == "http:"
    assert csp_source("vscode://x/y") == "vscode:"


@pytest.mark.parametrize("uri", [*TRICKS, *LOOPBACK_TRICKS[:12], "https://evil.example/cb"])
def test_a_request_with_a_redirect_that_is_not_registered_leads_nowhere(
    here: Place, uri: str
) -> None:
    app = App(here, "web", uri)
    with Visitor() as alice:
        page = alice.open(f"{here.url}{AUTHORIZE}?{urlencode(app.query(), quote_via=quote)}")
        assert page.status == 400 and page.url.startswith(here.url)
        assert len(alice.passed) == 1
        assert "evil" not in page.html


@pytest.mark.parametrize(
    "changes",
    [
        {"client_id": None},
        {"client_id": "nobody"},
        {"redirect_uri": None},
    ],
)
def test_a_request_of_nobody_known_is_shown_and_sent_nowhere(
    here: Place, changes: dict[str, str | None]
) -> None:
    with Visitor() as alice:
        page = alice.open(App(here).url(**changes))
        assert (page.status, len(alice.passed)) == (400, 1)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"response_type": None}, "invalid_request"),
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"response_type": "code token"}, "unsupported_response_type"),
        ({"response_type": "code id_token"}, "unsupported_response_type"),
        ({"response_mode": "fragment"}, "invalid_request"),
        ({"response_mode": "form_post"}, "invalid_request"),
        ({"resource": "https://other.example.com/mcp"}, "invalid_target"),
        ({"resource": "x"}, "invalid_target"),
        ({"scope": 'a "b"'}, "invalid_scope"),
        ({"prompt": "none login"}, "invalid_request"),
        ({"prompt": "sudo"}, "invalid_request"),
        ({"request": "eyJhbGciOiJub25lIn0.e30."}, "request_not_supported"),
        ({"dpop_jkt": "x"}, "invalid_request"),
        ({"state": "x" * 1025}, "invalid_request"),
    ],
)
def test_other_errors_go_back_to_the_client_with_iss(
    here: Place, changes: dict[str, str | None], error: str
) -> None:
    app = App(here)
    with Visitor() as alice:
        alice.open(app.url(**changes), until=app.redirect_uri)
        answer = query_of(alice.passed[-1])
    assert (answer["error"], answer["iss"]) == (error, here.url)
    assert answer.get("state") == (None if "state" in changes else app.state)


@pytest.mark.parametrize(
    "more",
    [
        "&client_id=web", "&redirect_uri=https%3A%2F%2Fevil.example", "&state=2", "&resource=x",
        "&code_challenge=x", "&scope=a&scope=b",
        "&request_uri=https%3A%2F%2Fevil.example%2Frequest",
        "&request_uri=urn%3Aietf%3Aparams%3Aoauth%3Arequest_uri%3Aunknown",
        "&x=%ff", "&" + "&".join(f"p{number}=1" for number in range(60)),
    ],
)  # fmt: skip
def test_doubled_parameters_and_foreign_request_objects_are_shown(here: Place, more: str) -> None:
    with Visitor() as alice:
        page = alice.open(App(here).url() + more)
        assert (page.status, len(alice.passed)) == (400, 1)


@pytest.mark.parametrize("changes", [{"code_challenge": None}, {"scope": '"'}, {"prompt": "none"}])
def test_our_address_lends_no_trust_to_a_redirect_that_anybody_registered(
    tmp_path: Path, changes: dict[str, str | None]
) -> None:
    everybody = {**agents(), "roaming": {"login": {"dynamic": True}}}
    with attacked_place(tmp_path, agents=everybody) as place, Visitor() as alice:
        with web() as client:
            made = client.post(
                f"{place.url}/oauth/register", json={"redirect_uris": ["https://evil.example/cb"]}
            )
        app = App(place, made.json()["client_id"], "https://evil.example/cb")
        page = alice.open(app.url(**changes))
        assert (page.status, len(alice.passed)) == (400, 1)
        assert "Go back to evil.example" in page.words
        refused = app.consent_page(alice)
        assert "Nobody has checked who this is" in refused.words
        assert answered(alice, refused, "deny").startswith("https://evil.example/cb?")
