"""The whole way of a user: a refused call, its link, the sign-in, the other side, and the call again."""

from __future__ import annotations

from pathlib import Path

from tests.harness import allow_all
from tests.people import Visitor, place
from tests.saas import Saas


def test_a_user_who_is_signed_in_nowhere_comes_from_a_refused_call_to_a_connected_account(
    tmp_path: Path,
) -> None:
    saas = Saas().start()
    changes = {
        "servers": {"saas": {"url": saas.mcp, "auth": {"mode": "oauth", "oauth": {}}}},
        "grants": allow_all("saas"),
    }
    try:
        with place(tmp_path, changes) as here, Visitor() as visitor:
            token = here.token(here.let_in("planner"))
            refused = here.gateway.call("saas__notes", token).json()["error"]
            link = refused["data"]["url"]
            page = visitor.open(link)
            assert page.url.startswith(here.issuer.url), page.words
            login = page.form("/authorize")
            password = here.issuer.passwords["alice"]
            page = visitor.submit(page, login, user="alice", password=password)
            assert page.url == link and "Connect your account at saas" in page.words
            there = visitor.submit(page, page.form("/oauth/connect/saas"), until=saas.url)
            assert there.status == 303
            left = visitor.client.get(visitor.passed[-1], headers={"x-account": "alice@saas"})
            page = visitor.open(left.headers["location"])
            assert "saas is connected" in page.words
            answer = here.gateway.call("saas__notes", token).json()
            assert answer["result"]["content"][0]["text"] == "the notes of alice@saas"
    finally:
        saas.stop()
