"""Rights kept after the identity provider took them: groups left, accounts disabled, while tokens rotate."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2

from agentgw.core.connected import Place as PlaceInVault
from agentgw.core.recheck import read_known
from agentgw.registry.vault import Vault
from agentgw.sts.keys import KeyRing, secret_kid
from tests.harness import faulty_server, wait_for
from tests.login import App, allow, ask, login_place, tools_of
from tests.people import Place, Visitor, query_of

GRANTS = [
    {"users": ["laptop:group:support"], "tools": ["tickets/*"]},
    {"users": ["laptop:group:billing"], "tools": ["notes/*"]},
    {"agents": ["desktop"], "tools": ["tickets/*", "notes/*"]},
]


@contextlib.contextmanager
def gate(folder: Path, **login: Any) -> Iterator[Place]:
    """A gateway that lets in the group support to tickets and billing to notes."""
    with faulty_server() as tools, login_place(folder, tools, grants=GRANTS) as here:
        here.gateway.config["login"] |= {"recheck": 1, **login}
        here.gateway.reload()
        yield here


def going_on(app: App, given: dict[str, Any]) -> httpx2.Response:
    """Refresh, once what the provider said has counted for long enough."""
    due = time.monotonic() + 1.1
    wait_for(lambda: time.monotonic() > due, "the provider to be asked again")
    return app.refresh(given["refresh_token"])


def servers(here: Place, token: str) -> set[str]:
    return {name.partition("__")[0] for name in tools_of(here, token)}


def test_a_user_who_left_a_group_has_lost_it_at_the_next_refresh(tmp_path: Path) -> None:
    with gate(tmp_path) as here, Visitor() as browser:
        here.issuer.groups["alice"] = ("support", "billing")
        app = App(here)
        given = app.tokens(browser)
        assert servers(here, given["access_token"]) == {"tickets", "notes"}
        here.issuer.groups["alice"] = ("billing", "admins")
        fresh = going_on(app, given).json()
        assert servers(here, fresh["access_token"]) == {"notes"}
        (record,) = [r for r in here.gateway.records() if r["method"] == "login/recheck"]
        assert record["subject"]["sub"] == "alice"
        assert record["detail"]["left"] == ["laptop:group:support"]
        assert record["detail"]["joined"] == ["laptop:group:admins"]
        here.issuer.groups["alice"] = ("support", "billing")
        again = going_on(app, fresh).json()
        assert servers(here, again["access_token"]) == {"tickets", "notes"}


def test_a_user_who_was_disabled_has_lost_login_session_and_tokens(tmp_path: Path) -> None:
    with gate(tmp_path) as here, Visitor() as browser:
        app, other = App(here), App(here)
        given, beside = app.tokens(browser), other.tokens(browser)
        here.issuer.disabled.add("alice")
        refused = going_on(app, given)
        assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")
        assert "identity provider ended" in refused.json()["error_description"]
        for token in (given["access_token"], beside["access_token"]):
            wait_for(
                lambda token=token: ask(here, token, "tools/list").status_code == 401,
                "the token to be refused",
                1.0,
            )
        assert other.refresh(beside["refresh_token"]).json()["error"] == "invalid_grant"
        page = browser.open(f"{here.url}/account")
        assert page.url.startswith(here.issuer.url), "the session has ended as well"
        ended = [r for r in here.gateway.records() if r.get("reason") == "invalid_grant"]
        assert ended[0]["detail"]["effect"] == "revoked"
        assert "identity provider ended" in ended[0]["detail"]["error"]
        assert ended[0]["subject"]["sub"] == "alice"
        here.issuer.disabled.clear()
        assert "access_token" in App(here).tokens(browser), "signing in again helps"


def test_a_code_that_waits_longer_than_that_is_judged_anew_too(tmp_path: Path) -> None:
    with gate(tmp_path) as here, Visitor() as browser:
        app = App(here)
        code = app.code(browser)
        here.issuer.groups["alice"] = ("billing",)
        due = time.monotonic() + 1.1
        wait_for(lambda: time.monotonic() > due, "the provider to be asked again")
        given = app.redeem(code).json()
        assert servers(here, given["access_token"]) == set(), "nor was consent given to more"


def test_a_provider_that_is_gone_is_waited_for_so_long_and_no_longer(tmp_path: Path) -> None:
    with gate(tmp_path) as here, Visitor() as browser:
        app = App(here)
        given = app.tokens(browser)
        here.issuer.__exit__(None, None, None)
        fresh = going_on(app, given)
        assert fresh.status_code == 200, "recheck_limit is eight hours"
        here.gateway.config["login"]["recheck_limit"] = 1
        here.gateway.reload()
        refused = app.refresh(fresh.json()["refresh_token"])
        assert (refused.status_code, refused.json()["error"]) == (503, "temporarily_unavailable")
        assert "identity provider cannot be asked" in refused.json()["error_description"]
        assert refused.headers["retry-after"]
        here.gateway.config["login"]["recheck_limit"] = "8h"
        here.gateway.reload()
        assert app.refresh(fresh.json()["refresh_token"]).status_code == 200, "nothing was used up"


def test_where_nobody_can_be_asked_again_a_login_ends_at_max_age(tmp_path: Path) -> None:
    with gate(tmp_path, offline_access=False, max_age="1h") as here, Visitor() as browser:
        app = App(here)
        page = app.consent_page(browser)
        assert "1 hour" in page.words and "7 days" not in page.words
        given = app.redeem(query_of(allow(browser, page))["code"]).json()
        with contextlib.closing(here.engine().raw_connection()) as database:
            (until,) = database.execute(
                'SELECT exp FROM ledger WHERE entry LIKE \'%"kind":"login"%\''
            ).fetchone()
        assert until <= time.time() + 3600
        assert going_on(app, given).status_code == 200, "nobody is asked in vain"


def test_what_the_provider_gave_is_sealed_and_spent_once(tmp_path: Path) -> None:
    with gate(tmp_path) as here, Visitor() as browser:
        app = App(here)
        given = app.tokens(browser)
        keys = {secret_kid(key): key for key in KeyRing(here.gateway.state).secrets("vault")}
        engine = here.engine()
        vault = Vault(engine, keys, os.urandom, time.time)
        with engine.connect() as connection:
            row = connection.exec_driver_sql("SELECT * FROM vault").one()
        assert row.server == "" and row.user_sub == "alice"

        def token() -> str:
            place = (row.user_iss, row.user_sub, row.issuer, row.server, row.resource)
            found = vault.open(PlaceInVault(*place))
            assert found is not None
            return read_known(found.content).refresh

        first = token()
        going_on(app, given)
        assert token() != first, "the provider rotates, and so do we"
        written = b"".join(path.read_bytes() for path in here.gateway.state.glob("agentgw.db*"))
        assert first.encode() not in written and token().encode() not in written
        assert first not in here.gateway.output
        engine.dispose()
