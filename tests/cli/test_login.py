"""`agentgw login`: the real command line, a real gateway, and a browser that answers the code."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from agentgw.core.login_grants import DEVICE_CODE
from tests.harness import ROOT
from tests.login import App, attacked_place, signed_in, tools_of
from tests.people import Page, Place, Visitor
from tests.sts.sts_under_test import claims_of

from .conftest import Run


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder: Path = tmp_path_factory.mktemp("login")
    with attacked_place(folder) as running:
        yield running


def start(*arguments: str) -> subprocess.Popen[str]:
    """`agentgw login ARGUMENTS`, under way."""
    return subprocess.Popen(
        [sys.executable, "-m", "agentgw", "login", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def link_of(running: subprocess.Popen[str]) -> tuple[str, str]:
    """The link it shows, and the code."""
    assert running.stderr is not None
    link = running.stderr.readline().removeprefix("Open ").strip()
    return link, running.stderr.readline().split()[-1]


def enter(here: Place, visitor: Visitor, link: str, user: str = "alice") -> Page:
    """The page that asks, once the code was typed."""
    page = signed_in(here, visitor, visitor.open(link), user)
    return visitor.submit(page, page.form("/device"))


def answer(visitor: Visitor, page: Page, said: str) -> Page:
    return visitor.submit(page, page.form("/device/consent"), None, answer=said)


def test_a_user_lets_a_terminal_in(here: Place) -> None:
    running = start(here.url, "--for", "desktop", "--resource", "tickets", "--json")
    with running, Visitor() as alice:
        link, code = link_of(running)
        page = enter(here, alice, link)
        assert code in page.words and "another device" in page.words
        done = answer(alice, page, "allow")
        assert "You are done" in done.words
        out, _ = running.communicate(timeout=60)
    given = json.loads(out)
    claims = claims_of(given["access_token"])
    assert (claims["sub"], claims["aud"]) == ("laptop|alice", f"{here.url}/mcp/tickets")
    assert running.returncode == 0
    assert App(here).refresh(given["refresh_token"]).status_code == 200


def test_a_user_who_says_no_is_exit_4(here: Place) -> None:
    running = start(here.url, "--for", "desktop")
    with running, Visitor() as alice:
        link, _ = link_of(running)
        assert "You said no" in answer(alice, enter(here, alice, link), "deny").words
        out, told = running.communicate(timeout=60)
    assert (running.returncode, out) == (4, "")
    assert "access_denied" in told


@pytest.mark.parametrize("agent", ["nobody", "coder", "server"])
def test_an_agent_that_cannot_be_let_in_so_is_exit_4(here: Place, agent: str) -> None:
    running = start(here.url, "--for", agent)
    out, told = running.communicate(timeout=60)
    assert (running.returncode, out) == (4, "")
    assert "invalid_client" in told


def test_no_gateway_is_exit_5() -> None:
    running = start("http://127.0.0.1:9", "--for", "desktop")
    out, told = running.communicate(timeout=60)
    assert (running.returncode, out) == (5, "")
    assert "cannot be reached" in told


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://gw.example", "tokens go over https only"),
        ("http://192.0.2.7:8000", "tokens go over https only"),
        ("gw.example", "should be an absolute https URL"),
        ("http://[::1", "should be an absolute https URL"),
    ],
)
def test_nothing_is_sent_where_it_would_go_in_the_clear(run: Run, url: str, why: str) -> None:
    done = run("login", url, "--for", "desktop")
    assert (done.returncode, done.stdout) == (1, "") and why in done.stderr


@contextlib.contextmanager
def gateway_that_says(answers: dict[str, dict[str, object]]) -> Iterator[str]:
    """The URL of something that answers each path with these members."""

    class Hostile(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.dumps(answers[self.path]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hostile) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_gateway_that_writes_to_the_terminal_is_none() -> None:
    answers: dict[str, dict[str, object]] = {
        "/oauth/device_authorization": {
            "device_code": "code",
            "user_code": "\x1b[2J",
            "verification_uri": "https://gw.example\x1b]0;title\x07",
            "interval": 1,
        },
        "/oauth/token": {"access_token": "eyJ\x1b]52;c;cm0gLXJmIH4=\x07", "token_type": "\x1b[1m"},
    }
    with gateway_that_says(answers) as url:
        running = start(url, "--for", "desktop")
        out, told = running.communicate(timeout=120)
    assert running.returncode not in (0, None) and out == ""
    assert "\x1b" not in told and "no gateway of ours" in told


def test_a_device_that_asks_too_often_is_told_to_wait_and_one_code_gives_one_token(
    here: Place,
) -> None:
    app = App(here)
    begun = app.post("/oauth/device_authorization", {"client_id": "desktop"}).json()
    poll = {
        "grant_type": DEVICE_CODE,
        "client_id": "desktop",
        "device_code": begun["device_code"],
    }
    assert app.post("/oauth/token", {**poll}).json()["error"] == "authorization_pending"
    assert app.post("/oauth/token", {**poll}).json()["error"] == "slow_down"
    stolen = app.post("/oauth/token", {**poll, "client_id": "web"})
    assert stolen.json()["error"] == "invalid_grant"
    with Visitor() as alice:
        page = enter(here, alice, begun["verification_uri_complete"])
        answer(alice, page, "allow")
        again = alice.submit(page, page.form("/device/consent"), None, answer="allow")
        assert again.status == 400
    given = app.post("/oauth/token", {**poll})
    assert given.status_code == 200
    token = given.json()["access_token"]
    assert tools_of(here, token)
    assert app.post("/oauth/token", {**poll}).json()["error"] == "invalid_grant"


def test_a_wrong_code_is_told_so_and_many_are_stopped(here: Place) -> None:
    with Visitor() as alice:
        page = signed_in(here, alice, alice.open(f"{here.url}/device"), "alice")
        for _ in range(10):
            wrong = alice.submit(page, page.form("/device"), None, user_code="BCDF-GHJK")
            assert wrong.status == 400 and "No device waits" in wrong.words
        stopped = alice.submit(page, page.form("/device"), None, user_code="BCDF-GHJK")
        assert stopped.status == 429


def test_the_code_of_one_user_cannot_be_answered_in_the_browser_of_another(here: Place) -> None:
    begun = App(here).post("/oauth/device_authorization", {"client_id": "desktop"}).json()
    with Visitor() as alice, Visitor() as bob:
        page = enter(here, alice, begun["verification_uri_complete"])
        own = signed_in(here, bob, bob.open(f"{here.url}/device"), "bob")
        assert own.status == 200
        fields = {**page.form("/device/consent").fields, "answer": "allow"}
        sent = bob.client.post(
            f"{here.url}/device/consent", data=fields, headers={"Origin": here.url}
        )
        assert sent.status_code == 403
