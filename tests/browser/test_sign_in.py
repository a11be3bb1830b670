"""Signing in and the account page, as Chromium sees them: its cookies, its policies, its keyboard."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from agentgw.core.connected import Place as Connected
from agentgw.registry.vault import Vault
from agentgw.sts.keys import KeyRing, secret_kid
from tests.people import Place, place

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module", params=[False, True], ids=["http", "https"])
def here(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    with place(tmp_path_factory.mktemp("gateway"), tls=request.param) as running:
        yield running


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    context = chromium.new_context(ignore_https_errors=True)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    context.close()
    assert not [each for each in complaints if "Content Security Policy" in each], complaints


def sign_in(here: Place, page: Page) -> None:
    """By keyboard alone: the password field has the focus."""
    page.goto(f"{here.url}/account")
    expect(page).to_have_title("Sign in · agentgw")
    expect(page.get_by_label("Password")).to_be_focused()
    page.keyboard.type(here.issuer.passwords["alice"])
    page.keyboard.press("Enter")
    expect(page.get_by_text("Signed in as Alice")).to_be_visible()
    assert page.url == f"{here.url}/account"


def test_a_user_signs_in_stops_an_agent_and_signs_out(here: Place, page: Page) -> None:
    here.let_in("planner")
    here.let_in("coder")
    sign_in(here, page)
    coders = page.locator("section", has=page.get_by_role("heading", name="coder"))
    coders.get_by_role("button", name="Stop").press("Enter")
    expect(coders).to_have_count(0)
    expect(page.get_by_role("heading", name="planner")).to_be_visible()
    expect(page.get_by_role("cell", name="stopped coder")).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("None.")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="You are signed out")).to_be_visible()
    page.get_by_role("link", name="Sign in again").click()
    expect(page).to_have_title("Sign in · agentgw")


def test_chromium_keeps_the_cookies_as_they_are_meant(here: Place, page: Page) -> None:
    sign_in(here, page)
    (cookie,) = page.context.cookies()
    secure = here.url.startswith("https:")
    assert cookie["name"].startswith("__Host-agentgw") is secure
    assert (cookie["secure"], cookie["httpOnly"], cookie["sameSite"]) == (secure, True, "Lax")
    assert page.evaluate("document.cookie") == ""


def test_the_pages_own_style_applies_and_no_other(here: Place, page: Page) -> None:
    page.emulate_media(color_scheme="dark")
    sign_in(here, page)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="light")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (dark, light) == ("rgb(18, 21, 24)", "rgb(242, 244, 246)")


def test_no_page_shows_the_account_inside_of_itself(here: Place, page: Page) -> None:
    sign_in(here, page)
    # A page of the same origin is refused as well, so that cookies cannot be why.
    outer = page.context.new_page()
    outer.goto(f"{here.url}/errors")
    with outer.expect_console_message(lambda said: "frame-ancestors 'none'" in said.text):
        outer.evaluate(
            "url => { const f = document.createElement('iframe'); f.src = url;"
            " document.body.append(f) }",
            f"{here.url}/account",
        )
    assert "Alice" not in outer.frames[1].content()


def test_another_sites_form_stops_nothing(here: Place, page: Page) -> None:
    """From another site of the same laptop: SameSite does not help there, the Origin does."""
    login = here.let_in("planner").jti
    sign_in(here, page)
    other = page.context.new_page()
    other.goto(f"{here.issuer.url}/jwks.json")
    other.set_content(
        f"<form method=post action='{here.url}/account/stop'>"
        f"<input name=login value='{login}'><button>x</button></form>"
    )
    with other.expect_response(f"{here.url}/account/stop") as answer:
        other.get_by_role("button").click()
    assert answer.value.status == 403
    page.reload()
    assert login in page.content()


def connect(here: Place, server: str) -> None:
    """Let alice have an account at a server, as if she had gone through its pages."""
    keys = {secret_kid(key): key for key in KeyRing(here.gateway.state).secrets("vault")}
    engine = here.engine()
    at = Connected("laptop", "alice", "https://as.example", server, "https://saas.example/mcp")
    content: dict[str, Any] = {
        "access": "at", "refresh": None, "scopes": [], "exp": None, "client_id": "c"
    }  # fmt: skip
    Vault(engine, keys, os.urandom, time.time).put(at, content)
    engine.dispose()


def test_a_user_disconnects_an_account_by_keyboard_alone(here: Place, page: Page) -> None:
    sign_in(here, page)
    connect(here, "saas")
    page.reload()
    expect(page.get_by_role("heading", name="Connected accounts")).to_be_visible()
    button = page.get_by_role("button", name="Disconnect")
    expect(button).to_have_accessible_description("saas")
    for _ in range(20):
        page.keyboard.press("Tab")
        if button.evaluate("each => each === document.activeElement"):
            break
    expect(button).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="saas is disconnected")).to_be_visible()
    expect(page.get_by_text("https://as.example could not be told")).to_be_visible()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Agents that may act for you")).to_be_visible()
    expect(page.get_by_role("heading", name="Connected accounts")).to_have_count(0)
    expect(page.get_by_role("cell", name="disconnected saas")).to_be_visible()
