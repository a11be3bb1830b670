"""The consent page as Chromium sees it: what its form may lead to, and what works without a mouse."""

from __future__ import annotations

import http.server
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.certificates import LOOPBACK, issue
from tests.login import App, attacked_place, tools_of
from tests.people import Place, query_of

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with attacked_place(tmp_path_factory.mktemp("gateway")) as running:
        yield running


class Program:
    """The loopback end of a program that has its user sign in: it keeps what comes back, and sends its user
    `on` to another page, if there is one."""

    def __init__(self, on: str | None = None) -> None:
        came_back: list[str] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path.startswith("/callback"):
                    came_back.append(self.path)
                self.send_response(200 if on is None else 302)
                self.send_header("Location", on or "")
                self.end_headers()
                self.wfile.write(b"done")

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.came_back = came_back
        self._server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.redirect_uri = f"http://127.0.0.1:{self._server.server_port}/callback"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def speak(self, tls: ssl.SSLContext) -> None:
        """Speak TLS from now on."""
        self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def program() -> Iterator[Program]:
    running = Program()
    yield running
    running.close()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    context = chromium.new_context()
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    yield page
    context.close()
    assert not [each for each in complaints if "Content Security Policy" in each], complaints


def sign_in(here: Place, page: Page, url: str) -> None:
    page.goto(url)
    expect(page.get_by_label("Password")).to_be_focused()
    page.keyboard.type(here.issuer.passwords["alice"])
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Let desktop act for you?")).to_be_visible()


def test_a_user_unchecks_a_tool_and_the_browser_takes_the_code_to_the_program(
    here: Place, page: Page, program: Program
) -> None:
    app = App(here, redirect_uri=program.redirect_uri)
    sign_in(here, page, app.url())
    tickets = page.get_by_role("group", name="tickets")
    tickets.get_by_role("checkbox", name="fail").uncheck()
    page.get_by_role("button", name="Allow").press("Enter")
    expect(page.get_by_text("done")).to_be_visible()
    answer = query_of(program.came_back[0])
    assert (answer["state"], answer["iss"]) == (app.state, here.url)
    token = app.redeem(answer["code"]).json()["access_token"]
    assert "tickets__echo" in tools_of(here, token)
    assert "tickets__fail" not in tools_of(here, token)


def test_a_no_reaches_the_program_too(here: Place, page: Page, program: Program) -> None:
    sign_in(here, page, App(here, redirect_uri=program.redirect_uri).url())
    page.get_by_role("button", name="Deny").click()
    expect(page.get_by_text("done")).to_be_visible()
    assert query_of(program.came_back[0])["error"] == "access_denied"


def test_the_page_sends_nothing_of_itself_to_the_program(
    here: Place, page: Page, program: Program
) -> None:
    sign_in(here, page, App(here, redirect_uri=program.redirect_uri).url())
    page.get_by_role("button", name="Allow").click()
    expect(page.get_by_text("done")).to_be_visible()
    assert page.evaluate("document.referrer") == ""


def test_a_program_may_send_its_user_on_to_a_site_of_its_own(
    here: Place, chromium: Browser, tmp_path: Path
) -> None:
    site, context = Program(), chromium.new_context(ignore_https_errors=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority = issue("authority of sites", ca=True)
    tls.load_cert_chain(issue("127.0.0.1", authority, LOOPBACK).write(tmp_path / "site.pem"))
    site.speak(tls)
    program = Program(on=site.redirect_uri.replace("http:", "https:"))
    try:
        page = context.new_page()
        sign_in(here, page, App(here, redirect_uri=program.redirect_uri).url())
        page.get_by_role("button", name="Allow").click()
        expect(page.get_by_text("done")).to_be_visible()
        assert "code" in query_of(program.came_back[0])
    finally:
        context.close()
        program.close()
        site.close()
