"""Client documents (CIMD) that lie, change, weigh too much, or lead inside our network."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from agentgw.sts.client_assertion import ClientKey, client_assertion
from agentgw.sts.client_auth.assertion import ASSERTION_TYPE
from tests.login import App, ask, attacked_place, login_of, tools_of
from tests.people import Place, Visitor

CALLBACK = "http://127.0.0.1:45123/callback"


class Documents:
    """A web server whose documents are `answers` by path: status, headers and body."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                status, headers, body = outer.answers.get(self.path, (404, {}, b""))
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def publish(self, path: str, **changes: Any) -> str:
        """A document at `path`; returns its URL, which is its client_id."""
        url = self.url + path
        document = {"client_id": url, "client_name": "Roaming App", "redirect_uris": [CALLBACK]}
        body = json.dumps({**document, **changes}).encode()
        self.answers[path] = (200, {}, body)
        return url


@contextmanager
def documents() -> Iterator[Documents]:
    made = Documents()
    thread = Thread(target=made.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.server.shutdown()
        made.server.server_close()


@pytest.fixture(scope="module")
def web() -> Iterator[Documents]:
    with documents() as found:
        yield found


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, web: Documents) -> Iterator[Place]:
    """Clients with a document at this web server are roamer, but those under /never/."""
    agents = {
        "roamer": {"login": {"client_metadata": [f"{web.url}/*"]}},
        "planner": {"auth": {"secret": "planner-secret-for-tests"}},
        "coder": {"auth": {"secret": "coder-secret-for-tests"}},
    }
    with attacked_place(tmp_path_factory.mktemp("documents"), agents=agents) as place:
        yield place


def refused(here: Place, client_id: str, *words: str) -> None:
    """The request is shown to be wrong, goes nowhere, and says why."""
    with Visitor() as visitor:
        page = visitor.open(App(here, client_id).url())
        assert page.status == 400, page.words
        assert page.url.startswith(here.url)
        for word in words:
            assert word in page.words


def test_an_honest_one_lets_its_user_in_as_the_agent_it_is(here: Place, web: Documents) -> None:
    app = App(here, web.publish("/app/client.json"))
    with Visitor() as visitor:
        page = app.consent_page(visitor)
        assert "Roaming App" in page.words and "127.0.0.1" in page.words
        given = app.tokens(visitor)
    assert "tickets__echo" in tools_of(here, given["access_token"])
    engine = here.engine()
    with engine.connect() as connection:
        entry = connection.exec_driver_sql(
            "SELECT entry FROM ledger WHERE jti = ?", (login_of(here, given),)
        ).scalar()
    engine.dispose()
    assert [hop["agent"] for hop in json.loads(str(entry))["chain"]] == ["roamer"]
    assert json.loads(str(entry))["chain"][0]["evidence"] == "consent"


def test_one_that_says_it_is_another(here: Place, web: Documents) -> None:
    other = web.publish("/other/client.json")
    refused(here, web.publish("/liar.json", client_id=other), "not the URL it was found at")


def test_one_with_a_redirect_uri_of_somebody_else_in_the_request(
    here: Place, web: Documents
) -> None:
    client_id = web.publish("/narrow.json", redirect_uris=["https://app.example.com/cb"])
    refused(here, client_id, "redirect")


@pytest.mark.parametrize(
    "uris", [["javascript:alert(1)"], ["http://evil.example/cb"], [], "x", ["data:text/html,x"]]
)
def test_one_that_sends_users_to_nobody_knows_where(here: Place, web: Documents, uris: Any) -> None:
    refused(here, web.publish(f"/uris-{len(str(uris))}.json", redirect_uris=uris), "redirect")


def test_one_that_redirects_is_not_followed(here: Place, web: Documents) -> None:
    target = web.publish("/target.json")
    web.answers["/moved.json"] = (302, {"Location": target}, b"")
    before = web.asked.count("/target.json")
    refused(here, f"{web.url}/moved.json", "302")
    assert web.asked.count("/target.json") == before


@pytest.mark.parametrize(
    ("path", "answer", "word"),
    [
        ("/html.json", (200, {"Content-Type": "text/html"}, b"<html>"), "application/json"),
        ("/huge.json", (200, {}, b'{"a":"' + b"x" * 6000 + b'"}'), "larger"),
        ("/broken.json", (200, {}, b"{"), "JSON"),
        ("/twice.json", (200, {}, b'{"client_id":"a","client_id":"b"}'), "JSON"),
        ("/error.json", (500, {}, b"{}"), "500"),
        ("/zipped.json", (200, {"Content-Encoding": "gzip"}, b"{}"), "compressed"),
        ("/list.json", (200, {}, b"[]"), "object"),
    ],
)
def test_what_is_no_document(
    here: Place, web: Documents, path: str, answer: tuple[int, dict[str, str], bytes], word: str
) -> None:
    web.answers[path] = answer
    refused(here, web.url + path, word)


def test_a_document_is_remembered_for_a_while(here: Place, web: Documents) -> None:
    good = web.publish("/once.json")
    web.answers["/gone.json"] = (404, {}, b"")
    for _ in range(2):
        refused(here, f"{web.url}/gone.json", "404")
    for _ in range(3):
        with Visitor() as visitor:
            assert visitor.open(App(here, good).url()).status == 200
    assert web.asked.count("/once.json") == 1


@dataclass
class Keyed:
    """A client with a document, a key set at `/keys.json`, and a key for each name it takes."""

    here: Place
    web: Documents
    key: ClientKey = field(
        default_factory=lambda: ClientKey(ec.generate_private_key(ec.SECP256R1()), "ES256", "k1")
    )

    def jwk(self, **changes: Any) -> dict[str, Any]:
        public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self.key.key.public_key()))
        return {**public, "kid": self.key.kid, "use": "sig", **changes}

    def assertion(self, client_id: str, audience: str | None = None) -> dict[str, str | None]:
        jti = secrets.token_urlsafe(12)
        aud = audience or self.here.url
        made = client_assertion(self.key, client_id, aud, time.time(), jti)
        return {"client_assertion_type": ASSERTION_TYPE, "client_assertion": made}


def redeemed_with_keys(
    here: Place, web: Documents, path: str, keyed: Keyed, **document: Any
) -> None:
    """A client with these keys gets its tokens with its assertion, once, and not without."""
    how = {"token_endpoint_auth_method": "private_key_jwt"}
    app = App(here, web.publish(path, **how, **document))
    with Visitor() as visitor:
        code = app.code(visitor)
        assert app.redeem(code).json()["error"] == "invalid_client"
        thief = Keyed(here, web).assertion(app.client_id)
        assert app.redeem(code, **thief).json()["error"] == "invalid_client"
        elsewhere = keyed.assertion(app.client_id, "https://other.example")
        assert app.redeem(code, **elsewhere).json()["error"] == "invalid_client"
        own = keyed.assertion(app.client_id)
        answer = app.redeem(code, **own)
        assert answer.status_code == 200, answer.text
        assert "tickets__echo" in tools_of(here, answer.json()["access_token"])
        refreshing = answer.json()["refresh_token"]
        assert app.refresh(refreshing).json()["error"] == "invalid_client"
        assert "used before" in app.refresh(refreshing, **own).json()["error_description"]
        renewed = app.refresh(refreshing, **keyed.assertion(app.client_id))
        assert renewed.status_code == 200, renewed.text


def test_one_with_keys_is_believed_by_them_only(here: Place, web: Documents) -> None:
    keyed = Keyed(here, web)
    redeemed_with_keys(here, web, "/keyed.json", keyed, jwks={"keys": [keyed.jwk()]})


def test_one_whose_keys_lie_elsewhere_is_believed_by_them_only(here: Place, web: Documents) -> None:
    keyed = Keyed(here, web)
    web.answers["/keys.json"] = (200, {}, json.dumps({"keys": [keyed.jwk()]}).encode())
    redeemed_with_keys(here, web, "/remote.json", keyed, jwks_uri=f"{web.url}/keys.json")
    assert web.asked.count("/keys.json") <= 2


def test_one_with_keys_gets_nothing_but_what_its_users_allow(here: Place, web: Documents) -> None:
    keyed = Keyed(here, web)
    how = {"token_endpoint_auth_method": "private_key_jwt", "jwks": {"keys": [keyed.jwk()]}}
    app = App(here, web.publish("/greedy.json", **how))
    with Visitor() as visitor:
        token = app.redeem(app.code(visitor), **keyed.assertion(app.client_id)).json()
    for grant in ("client_credentials", "urn:ietf:params:oauth:grant-type:token-exchange"):
        form: dict[str, str | None] = {
            "grant_type": grant, "subject_token": token["access_token"], "client_id": app.client_id,
            "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
        }  # fmt: skip
        answer = app.post("/oauth/token", {**form, **keyed.assertion(app.client_id)})
        assert answer.json()["error"] == "invalid_client", answer.text


def test_one_with_keys_takes_back_nothing_of_another_client_of_its_agent(
    here: Place, web: Documents
) -> None:
    keyed, thief = Keyed(here, web), Keyed(here, web)
    how = {"token_endpoint_auth_method": "private_key_jwt"}
    app = App(here, web.publish("/owner.json", **how, jwks={"keys": [keyed.jwk()]}))
    other = App(here, web.publish("/thief.json", **how, jwks={"keys": [thief.jwk()]}))
    with Visitor() as visitor:
        given = app.redeem(app.code(visitor), **keyed.assertion(app.client_id)).json()
    token = given["access_token"]
    for form in (thief.assertion(other.client_id), {"client_id": other.client_id}):
        other.post("/oauth/revoke", {"token": token, **form})
        assert "tickets__echo" in tools_of(here, token)
    app.post("/oauth/revoke", {"token": token, **keyed.assertion(app.client_id)})
    answer = ask(here, token, "tools/list")
    assert answer.status_code == 401


WRONG_KEYS: dict[str, dict[str, Any]] = {
    "neither keys nor where they are": {},
    "no key": {"jwks": {"keys": []}},
    "no key set": {"jwks": []},
    "a private key": {
        "jwks": {"keys": [{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "d": "AA"}]}
    },
    "a shared secret": {"jwks": {"keys": [{"kty": "oct", "k": "AAAA"}]}},
    "both": {"jwks": {"keys": [{"kty": "EC"}]}, "jwks_uri": "https://app.example.com/keys"},
    "keys over plain http": {"jwks_uri": "http://app.example.com/keys"},
    "keys in a file": {"jwks_uri": "file:///etc/passwd"},
    "keys behind a user name": {"jwks_uri": "https://a:b@app.example.com/keys"},
}


@pytest.mark.parametrize("case", WRONG_KEYS)
def test_one_with_wrong_keys(here: Place, web: Documents, case: str) -> None:
    how = {"token_endpoint_auth_method": "private_key_jwt", **WRONG_KEYS[case]}
    client_id = web.publish(f"/wrong-{len(case)}-{case[0]}.json", **how)
    refused(here, client_id, "cannot be used")


@pytest.mark.parametrize(
    "method", ["client_secret_basic", "client_secret_jwt", "tls_client_auth", 7]
)
def test_one_with_a_method_that_no_document_can_hold(
    here: Place, web: Documents, method: Any
) -> None:
    client_id = web.publish(f"/method-{method}.json", token_endpoint_auth_method=method)
    refused(here, client_id, "token_endpoint_auth_method")


def test_one_whose_keys_lie_inside_our_network(here: Place, web: Documents) -> None:
    keyed = Keyed(here, web)
    how = {"token_endpoint_auth_method": "private_key_jwt"}
    app = App(here, web.publish("/inside.json", **how, jwks_uri="https://169.254.169.254/keys"))
    with Visitor() as visitor:
        answer = app.redeem(app.code(visitor), **keyed.assertion(app.client_id))
    assert answer.status_code == 401 and "keys cannot be fetched" in answer.text


def test_names_that_hide_or_move_text_are_shown_without(here: Place, web: Documents) -> None:
    client_id = web.publish("/name.json", client_name="Pay\u202epal <b>x</b>\n\u200bInc")
    with Visitor() as visitor:
        page = App(here, client_id).consent_page(visitor)
        assert "Paypal" in page.words and "\u202e" not in page.html and "<b>x" not in page.html


def test_a_client_nobody_named_is_unknown_and_its_document_not_fetched(
    tmp_path: Path, web: Documents
) -> None:
    client_id = web.publish("/app/never.json")
    agents = {"roamer": {"login": {"client_metadata": ["https://app.example.com/*"]}}}
    with attacked_place(tmp_path, agents=agents) as place:
        refused(place, client_id, "o client of that client_id")
    assert "/app/never.json" not in web.asked
