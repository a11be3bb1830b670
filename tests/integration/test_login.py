"""The whole story of a login, in a browser without scripts: sign in, consent to less, work, stop."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import allow_all, free_port, wait_for
from tests.login import App, allow, answered, ask, login_place, tools_of, web
from tests.people import Place, Visitor, query_of
from tests.sts.sts_under_test import claims_of


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, faulty: str) -> Iterator[Place]:
    folder: Path = tmp_path_factory.mktemp("login")
    with login_place(folder, faulty) as running:
        yield running


def test_a_user_lets_an_agent_in_with_less_than_was_asked(here: Place) -> None:
    app = App(here)
    with Visitor() as alice:
        page = app.consent_page(alice)
        assert "desktop" in page.words and "127.0.0.1" in page.words
        assert "Go on only if you started it just now" in page.words
        offered = {name for name in page.form("/oauth/authorize").fields if name[:5] == "tool:"}
        assert "tool:tickets/echo" in offered and "tool:notes/echo" in offered
        others = offered - {"tool:tickets/echo"}
        answer = query_of(allow(alice, page, (*sorted(others), "server:notes", "server:tickets")))
    assert (answer["state"], answer["iss"]) == (app.state, here.url)
    redeemed = app.redeem(answer["code"])
    assert redeemed.status_code == 200, redeemed.text
    assert redeemed.headers["cache-control"] == "no-store"
    given = redeemed.json()
    claims = claims_of(given["access_token"])
    assert (claims["sub"], claims["aud"]) == ("laptop|alice", f"{here.url}/mcp")
    assert claims["act"] == {
        "iss": here.url, "sub": f"{here.url}/a2a/desktop", "sub_profile": "ai_agent"
    }  # fmt: skip
    assert tools_of(here, given["access_token"]) == {"tickets__echo"}
    called = ask(here, given["access_token"], "tools/call", name="tickets__echo", arguments={})
    assert "result" in called.json(), called.text
    refused = ask(here, given["access_token"], "tools/call", name="notes__echo", arguments={})
    assert refused.json()["error"]["code"] == 46001
    again = app.refresh(given["refresh_token"])
    assert again.status_code == 200, again.text
    assert tools_of(here, again.json()["access_token"]) == {"tickets__echo"}


def test_the_choice_is_on_record_before_the_code_and_is_shown_the_next_time(here: Place) -> None:
    app = App(here, "web", "https://app.example.com/cb")
    with Visitor() as alice:
        page = app.consent_page(alice)
        assert "app.example.com" in page.words and "just now" not in page.words
        allow(alice, page, ("tool:notes/echo",), life="3600")
        records = [
            each for each in here.gateway.records() if each.get("method") == "login/consent"
            and each["presenter"] == "web"
        ]  # fmt: skip
        assert len(records) == 1
        told = records[0]
        assert told["subject"] == {"iss": "laptop", "sub": "alice"}
        assert told["detail"]["redirect_host"] == "app.example.com"
        assert "tickets/echo" in told["detail"]["consent"]["tools"]
        assert "notes/echo" not in told["detail"]["consent"]["tools"]
        fields = App(here, "web", "https://app.example.com/cb").consent_page(alice)
        shown = fields.form("/oauth/authorize").fields
        assert "tool:tickets/echo" in shown and "tool:notes/echo" not in shown
        assert shown["life"] == "3600"


def test_a_user_who_says_no_sends_the_client_a_no(here: Place) -> None:
    app = App(here)
    with Visitor() as alice:
        answer = query_of(answered(alice, app.consent_page(alice), "deny"))
    assert (answer["error"], answer["state"], answer["iss"]) == (
        "access_denied", app.state, here.url
    )  # fmt: skip
    assert "code" not in answer


def test_stopping_an_agent_ends_it_and_the_agent_it_handed_work_to_within_a_second(
    here: Place,
) -> None:
    app = App(here, "server", "https://server.example.com/cb", "server-secret-for-tests")
    with Visitor() as alice:
        token = app.tokens(alice)["access_token"]
        handed = _exchange(
            here, token, f"{here.url}/a2a/coder", "server", "server-secret-for-tests"
        )
        heir = _exchange(here, handed, f"{here.url}/mcp", "coder", "coder-secret-for-tests")
        assert claims_of(heir)["act"]["act"]["sub"] == f"{here.url}/a2a/server"
        for held in (token, heir):
            works = ask(here, held, "tools/call", name="tickets__echo", arguments={})
            assert "result" in works.json(), works.text
        page = alice.open(f"{here.url}/account")
        login = next(form for form in page.forms if form.action.endswith("/account/stop"))
        stopped = time.monotonic()
        alice.submit(page, login, login="all")
        assert time.monotonic() - stopped < 1.0
    for held in (token, heir):
        ended = ask(here, held, "tools/call", name="tickets__echo", arguments={})
        assert ended.status_code == 401, ended.text


def test_metadata_tells_what_works_and_nothing_else(here: Place) -> None:
    with web() as client:
        said = client.get(f"{here.url}/.well-known/oauth-authorization-server").json()
        resource = client.get(f"{here.url}/.well-known/oauth-protected-resource/mcp").json()
    assert resource["authorization_servers"][0] == said["issuer"] == here.url
    assert said["response_types_supported"] == ["code"]
    assert said["code_challenge_methods_supported"] == ["S256"]
    assert said["authorization_response_iss_parameter_supported"] is True
    assert "none" in said["token_endpoint_auth_methods_supported"]
    assert {"authorization_code", "refresh_token"} <= set(said["grant_types_supported"])
    with web() as client:
        for name, url in said.items():
            if name.endswith("_endpoint"):
                answered = client.post(url, data={"client_id": "nobody"})
                assert answered.status_code in (400, 401, 403), (name, answered.status_code)


def test_a_pushed_request_is_used_once(here: Place) -> None:
    app = App(here)
    pushed = app.post("/oauth/par", {**app.query()})
    assert pushed.status_code == 201, pushed.text
    uri = pushed.json()["request_uri"]
    with Visitor() as alice:
        url = f"{here.url}/oauth/authorize?client_id=desktop&request_uri={uri}"
        app.consent_page(alice)
        page = alice.open(url)
        assert app.redeem(query_of(allow(alice, page))["code"]).status_code == 200
        assert alice.open(url).status == 400
    other = App(here, "web", "https://app.example.com/cb")
    stolen = app.post("/oauth/par", {**app.query()}).json()["request_uri"]
    with Visitor() as alice:
        assert alice.open(f"{other.url()}&request_uri={stolen}").status == 400


def test_a_disabled_agent_gets_nothing_for_its_refresh_token(tmp_path: Path, faulty: str) -> None:
    with login_place(tmp_path, faulty) as place, Visitor() as alice:
        app = App(place)
        given = app.tokens(alice)
        place.gateway.config["agents"]["desktop"]["disabled"] = True
        place.gateway.reload()
        refused = app.refresh(given["refresh_token"])
        assert (refused.status_code, refused.json()["error"]) == (400, "unauthorized_client")
        wait_for(lambda: tools_of(place, given["access_token"]) == set(), "an empty list")


def _exchange(here: Place, token: str, target: str, agent: str, secret: str) -> str:
    form = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": token,
        "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
        ("audience" if "/a2a/" in target else "resource"): target,
    }
    with web() as client:
        answer = client.post(f"{here.url}/oauth/token", data=form, auth=(agent, secret))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_token"])


def test_a_page_of_a_thousand_tools_can_be_answered(tmp_path: Path, faulty: str) -> None:
    url = f"{faulty}/mcp/large?on=tools/list&era=modern"
    big = {"url": url, "auth": {"mode": "token", "audience": f"{faulty}/big"}}
    changes = {"servers": {"big": big}, "grants": allow_all("big")}
    with login_place(tmp_path, faulty, **changes) as place, Visitor() as alice:
        app = App(place)
        page = app.consent_page(alice)
        offered = [name for name in page.form("/oauth/authorize").fields if name[:5] == "tool:"]
        assert len(offered) == 1000
        code = query_of(allow(alice, page, ("tool:big/tool7",)))["code"]
        names = tools_of(place, app.redeem(code).json()["access_token"])
    assert len(names) == 999 and "big__tool7" not in names


def test_no_secret_of_a_login_is_in_the_log_the_database_or_the_output(
    tmp_path: Path, faulty: str
) -> None:
    with login_place(tmp_path, faulty) as place, Visitor() as alice:
        app = App(place)
        code = app.code(alice)
        given = app.redeem(code).json()
        again = app.refresh(given["refresh_token"]).json()
        pushed = app.post("/oauth/par", {**app.query()}).json()["request_uri"]
        device = app.post("/oauth/device_authorization", {"client_id": "desktop"}).json()
        app.redeem(code)
        secrets = {
            "code": code,
            "verifier": app.verifier,
            "first refresh token": given["refresh_token"],
            "second refresh token": again["refresh_token"],
            "first token": given["access_token"],
            "second token": again["access_token"],
            "pushed": pushed.rpartition(":")[2],
            "device code": device["device_code"],
            "user code": device["user_code"],
            **{f"cookie {name}": value for name, value in alice.cookies().items()},
        }
        places = [path for path in place.gateway.state.rglob("*") if path.is_file()]
        kept = b"".join(path.read_bytes() for path in places) + place.gateway.output.encode()
    assert [name for name, secret in secrets.items() if secret.encode() in kept] == []


@pytest.fixture(scope="module")
def scoped(tmp_path_factory: pytest.TempPathFactory, faulty: str) -> Iterator[Place]:
    """Two tools with scopes, a server that is away, and grants for group support: alice has it."""
    ok = {"url": f"{faulty}/mcp/ok", "auth": {"mode": "token", "audience": f"{faulty}/ok"}}
    tools = {"echo": {"scope": "ok.read"}, "fail": {"scope": "ok.write"}}
    changes = {
        "servers": {
            "ok": {**ok, "tools": tools},
            "away": {"url": f"http://127.0.0.1:{free_port()}/mcp"},
        },
        "grants": [
            {"users": ["laptop:group:support"], "tools": ["ok/*", "away/*"]},
            {"agents": ["desktop"], "tools": ["ok/*", "away/*"]},
        ],
    }
    with login_place(tmp_path_factory.mktemp("scoped"), faulty, **changes) as running:
        yield running


@pytest.mark.parametrize(
    ("scope", "offered", "without", "given"),
    [
        ("ok.read openid", {"echo"}, (), "ok.read"),
        ("openid offline_access", {"echo", "fail"}, (), "ok.read ok.write"),
        (None, {"echo", "fail"}, ("tool:ok/fail",), "ok.read"),
        (None, {"echo", "fail"}, ("tool:ok/fail", "tool:ok/echo"), None),
    ],
)
def test_scopes_are_those_that_the_chosen_tools_need(
    scoped: Place, scope: str | None, offered: set[str], without: tuple[str, ...], given: str | None
) -> None:
    app = App(scoped)
    with Visitor() as alice:
        first = App(scoped).consent_page(alice)
        allow(alice, first, (), **dict.fromkeys(("tool:ok/echo", "tool:ok/fail"), "on"))
        page = app.consent_page(alice, scope=scope)
        names = {name for name in page.form("/oauth/authorize").fields if name[:8] == "tool:ok/"}
        assert {"tool:ok/echo", "tool:ok/fail"} & names == {f"tool:ok/{each}" for each in offered}
        answer = app.redeem(query_of(allow(alice, page, without))["code"]).json()
    assert answer.get("scope") == given
    assert claims_of(answer["access_token"]).get("scope") == given


def test_a_server_that_is_away_is_named_and_a_user_without_grants_is_offered_nothing(
    scoped: Place,
) -> None:
    with Visitor() as alice, Visitor() as bob:
        words = App(scoped).consent_page(alice).words
        assert "Cannot be asked right now, and so is not offered: away" in words
        page = App(scoped).consent_page(bob, "bob")
        assert "You may use nothing through this agent" in page.words
        assert not [
            name for name in page.form("/oauth/authorize").fields if name[:4] in ("tool", "serv")
        ]
