"""Users connect accounts of their own at a tool server, and their agents use them."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from typing import Any

import httpx2
import pytest
from typer.testing import CliRunner

from agentgw.cli import app
from tests.harness import MODERN, NO_TLS, modern_call, modern_headers, wait_for
from tests.integration.agents import conforms
from tests.saas import SECRET, House, query_of
from tests.saas import house as run_house

URL_MODE: dict[str, Any] = {"elicitation": {"url": {}}}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with run_house(tmp_path_factory.mktemp("saas")) as running:
        yield running


@pytest.fixture(autouse=True)
def honest_again(house: House) -> Iterator[None]:
    yield
    house.saas.reset()


def test_a_user_connects_by_the_link_of_a_refused_call_and_the_next_call_works(
    house: House,
) -> None:
    error = house.refused("anna")
    assert error["data"]["reason"] == "connect_required"
    assert error["data"]["url"].startswith(f"{house.gw.url}/oauth/connect/saas?link=")
    assert error["data"]["url"] in error["data"]["hint"]
    house.connect("anna", "anna@saas")
    assert house.notes("anna") == "the notes of anna@saas"


def test_each_user_is_answered_with_the_data_of_the_account_they_connected(house: House) -> None:
    users = {f"user{number}": f"user{number}@saas" for number in range(4)}
    for user, account in users.items():
        house.connect(user, account)
    for _ in range(10):
        for user, account in users.items():
            assert house.notes(user) == f"the notes of {account}"


def test_the_way_there_asks_with_pkce_and_resource_and_proves_the_published_client(
    house: House,
) -> None:
    browser = house.browser("ines")
    answer = browser.agree(browser.open(house.link("ines")))
    asked = query_of(answer.headers["location"])
    document = f"{house.gw.url}/oauth/client.json"
    assert asked["client_id"] == document
    assert asked["resource"] == house.saas.mcp and asked["code_challenge_method"] == "S256"
    assert asked["redirect_uri"] == f"{house.gw.url}/oauth/connect/callback/saas"
    browser.open(browser.sign_in_there(answer, "ines"))
    form = house.saas.forms[-1]
    assert form["resource"] == house.saas.mcp and form["client_id"] == document
    assert "client_assertion" in form and "client_secret" not in form
    with house.gw.client() as client:
        published = client.get("/oauth/client.json").json()
        assert "d" not in client.get("/oauth/client.jwks.json").json()["keys"][0]
        tokens = client.get("/oauth/jwks.json").json()["keys"]
    assert published["client_id"] == document and published["redirect_uris"]
    with house.gw.client() as client:
        own = client.get("/oauth/client.jwks.json").json()["keys"][0]
    assert own["kid"] not in {key["kid"] for key in tokens}


def test_an_access_token_that_ended_is_refreshed_before_it_is_used(house: House) -> None:
    house.saas.life = 5
    house.connect("rita")
    house.saas.life = 3600
    refreshes = [form for form in house.saas.forms if form["grant_type"] == "refresh_token"]
    assert house.notes("rita") == "the notes of rita"
    after = [form for form in house.saas.forms if form["grant_type"] == "refresh_token"]
    assert len(after) == len(refreshes) + 1 and after[-1]["resource"] == house.saas.mcp


def test_a_token_the_server_no_longer_takes_is_refreshed_and_the_call_sent_again(
    house: House,
) -> None:
    house.connect("rosa")
    assert house.notes("rosa") == "the notes of rosa"
    house.saas.expire()
    assert house.notes("rosa") == "the notes of rosa"


def test_an_account_revoked_at_the_saas_side_is_disconnected_and_a_new_link_is_given(
    house: House,
) -> None:
    house.connect("rolf")
    assert house.notes("rolf") == "the notes of rolf"
    house.saas.revoke("rolf")
    link = house.link("rolf")
    assert house.link("rolf") != link
    house.browser("rolf").connect(house.link("rolf"), "rolf")
    assert house.notes("rolf") == "the notes of rolf"


def test_a_server_that_refuses_every_token_costs_one_refresh_and_then_the_connection(
    house: House,
) -> None:
    house.connect("rudi")
    house.saas.refuse_all = True
    before = len(house.saas.forms)
    assert house.refused("rudi")["data"]["reason"] == "connect_required"
    assert len(house.saas.forms) == before + 1
    assert house.refused("rudi")["data"]["reason"] == "connect_required"
    assert len(house.saas.forms) == before + 1


def test_more_scope_is_asked_for_together_with_what_is_held(house: House) -> None:
    house.connect("sara")
    assert house.notes("sara") == "the notes of sara"
    house.saas.wanted = frozenset({"notes.write"})
    link = house.link("sara")
    browser = house.browser("sara")
    page = browser.open(link)
    assert "notes.read" in page.text and "notes.write" in page.text
    asked = browser.agree(page)
    assert query_of(asked.headers["location"])["scope"] == "notes.read notes.write"
    browser.open(browser.sign_in_there(asked, "sara"))
    assert house.notes("sara") == "the notes of sara"


def test_a_server_that_demands_what_is_held_already_gets_no_second_link(house: House) -> None:
    house.connect("sofi")
    house.saas.wanted = frozenset({"notes.read", "-"})
    house.browser("sofi").connect(house.link("sofi"), "sofi")
    house.saas.wanted = frozenset({"notes.read", "-"})
    assert house.notes("sofi") == "the notes of sofi"


def test_a_user_may_connect_without_a_link_from_the_page_alone(house: House) -> None:
    answer = house.browser("uma").connect(f"{house.gw.url}/oauth/connect/saas", "uma@saas")
    assert "is connected" in answer.text
    assert house.notes("uma") == "the notes of uma@saas"


def test_a_link_works_once(house: House) -> None:
    link = house.link("olga")
    browser = house.browser("olga")
    assert "is connected" in browser.connect(link, "olga").text
    again = browser.open(link)
    assert again.status_code == 400 and "works once" in again.text
    assert house.browser("olga").open(link).status_code == 400


def test_nobody_signed_in_is_sent_to_sign_in_and_learns_nothing(house: House) -> None:
    link = house.link("nils")
    with httpx2.Client(transport=httpx2.HTTPTransport(verify=NO_TLS)) as stranger:
        answer = stranger.get(link)
    where = answer.headers["location"]
    assert answer.status_code == 303 and where.startswith(f"{house.gw.issuer.url}/authorize?")
    assert "notes" not in answer.text and link.partition("link=")[2] not in where


def agentgw(*arguments: str) -> None:
    """Run a command."""
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output


def call_of_2026(house: House, user: str, **more: Any) -> dict[str, Any]:
    """The answer to a client of 2026-07-28 that can have URLs opened."""
    message = modern_call("saas__notes", {})
    meta = message["params"]["_meta"]
    meta["io.modelcontextprotocol/clientCapabilities"] = URL_MODE
    message["params"].update(more)
    with house.gw.client() as client:
        headers = modern_headers(message, house.gw.token(sub=user))
        answer: dict[str, Any] = client.post("/mcp", json=message, headers=headers).json()
    return answer


def test_a_client_of_2026_that_can_is_asked_to_open_the_url(house: House) -> None:
    result = call_of_2026(house, "emil")["result"]
    assert result["resultType"] == "input_required"
    (name, request), *none = result["inputRequests"].items()
    assert not none and request["params"]["mode"] == "url"
    accepted = {"inputResponses": {name: {"action": "accept"}}}
    assert call_of_2026(house, "emil", **accepted)["error"]["code"] == 46008
    assert "is connected" in house.browser("emil").connect(request["params"]["url"]).text
    answer = call_of_2026(house, "emil", **accepted)
    assert answer["result"]["content"][0]["text"] == "the notes of emil"
    assert "inputResponses" not in json.dumps(house.saas.seen[-1][2])


def calls_of_2025(house: House, user: str) -> Generator[dict[str, Any], None, None]:
    """The answers to the same call, again and again, in a session of 2025-11-25 that can open URLs."""
    with house.gw.client(house.gw.token(sub=user)) as client:
        accept = {"accept": "application/json, text/event-stream"}
        opening = {
            "jsonrpc": "2.0", "id": 1, "method": "initialize",
            "params": {
                "protocolVersion": "2025-11-25", "capabilities": URL_MODE,
                "clientInfo": {"name": "t", "version": "1"},
            },
        }  # fmt: skip
        opened = client.post("/mcp", json=opening, headers=accept)
        session = {
            **accept,
            "mcp-session-id": opened.headers["mcp-session-id"],
            "mcp-protocol-version": "2025-11-25",
        }
        call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call"}
        call = {**call, "params": {"name": "saas__notes", "arguments": {}}}
        while True:
            yield client.post("/mcp", json=call, headers=session).json()


def test_a_client_of_2025_that_can_gets_the_error_that_names_the_url(house: House) -> None:
    answers = calls_of_2025(house, "elsa")
    error = next(answers)["error"]
    assert error["code"] == -32042
    url = error["data"]["elicitations"][0]["url"]
    assert "is connected" in house.browser("elsa").connect(url).text
    assert next(answers)["result"]["content"][0]["text"] == "the notes of elsa"
    answers.close()


def test_what_asks_for_a_url_is_as_the_protocol_says(house: House) -> None:
    conforms(MODERN, "InputRequiredResult", call_of_2026(house, "edda")["result"])
    answers = calls_of_2025(house, "edda")
    conforms("2025-11-25", "URLElicitationRequiredError", next(answers))
    answers.close()


def test_records_say_each_step_and_hold_no_secret(house: House) -> None:
    house.connect("vera", "vera@saas")
    assert house.notes("vera") == "the notes of vera@saas"
    whose = [r for r in house.gw.records() if (r.get("subject") or {}).get("sub") == "vera"]
    steps = [r["method"] for r in whose if r["phase"] == "decision"]
    for step in ("connect/link", "connect/start", "connect/finish", "sts/external", "tools/call"):
        assert step in steps, steps
    sent = [r for r in whose if r["method"] == "tools/call" and r.get("decision") == "allow"]
    assert {r["chain_assurance"] for r in sent} == {"audit-only"}
    issued = [r["issued"] for r in whose if r["method"] == "sts/external"][-1]
    assert issued["iss"] == house.saas.url and issued["aud"] == house.saas.mcp
    secrets = [*house.saas.grants, *house.saas.refresh, *house.saas.spent]
    assert secrets
    written = b"".join(p.read_bytes() for p in house.gw.state.rglob("*") if p.is_file())
    written += house.gw.output.encode()
    assert [secret for secret in secrets if secret.encode() in written] == []


def test_no_token_of_the_gateway_or_the_caller_ever_goes_there(house: House) -> None:
    house.connect("tina")
    assert house.notes("tina") == "the notes of tina"
    for sent in house.saas.bearers():
        assert sent.startswith("Bearer at-"), sent[:20]
    callers = set(house.gw.issuer.issued)
    assert not any(token in str(house.saas.seen) for token in callers)


def test_what_was_connected_outlives_a_reload_and_a_restart(house: House) -> None:
    house.connect("walt")
    house.gw.reload()
    assert house.notes("walt") == "the notes of walt"
    assert house.gw.stop() == 0
    house.gw.start()
    assert house.notes("walt") == "the notes of walt"


def test_while_the_authorization_server_is_slow_a_refresh_runs_once_for_all(house: House) -> None:
    house.saas.life = 5
    house.connect("fred")
    house.saas.life, house.saas.slow = 3600, 0.3
    before = len(house.saas.forms)
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: house.notes("fred"), range(8)))
    assert set(answers) == {"the notes of fred"}
    assert len(house.saas.forms) == before + 1


def test_two_workers_never_spend_one_refresh_token_both(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    folder = tmp_path_factory.mktemp("workers")
    with run_house(folder, workers=2) as running:
        running.saas.life = 9
        running.connect("fred")
        running.wait_for_workers(2, "fred")
        before = len(running.saas.spent)
        for _ in range(3):
            # Each token is over at once, so each burst refreshes; the Saas revokes all on a reuse.
            running.saas.slow = 0.2
            with ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(lambda _: running.notes("fred"), range(8)))
            assert set(answers) == {"the notes of fred"}
        assert not any(grant.revoked for grant in running.saas.spent.values())
        assert len(running.saas.spent) >= before + 3


def test_an_agent_that_acts_for_itself_uses_an_account_only_where_a_grant_says_whose(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    acting = {"users": ["agent:coder"], "agents": ["coder"]}
    grants = [
        {"users": ["*"], "agents": ["*"], "tools": ["saas/*"]},
        {**acting, "tools": ["saas/notes"], "account_of": "laptop|alice"},
    ]
    agents = {
        "planner": {
            "clients": [{"issuer": "laptop", "client_id": "planner", "confidential": True}]
        },
        "coder": {"auth": {"secret": "coder-secret-for-tests"}, "client_credentials": {}},
    }
    folder = tmp_path_factory.mktemp("alone")
    with run_house(folder, grants=grants, agents=agents) as running:

        def alone() -> dict[str, Any]:
            with running.gw.client() as client:
                form = {"grant_type": "client_credentials"}
                auth = ("coder", "coder-secret-for-tests")
                token = client.post("/oauth/token", data=form, auth=auth).json()["access_token"]
            answer: dict[str, Any] = running.gw.call("saas__notes", token).json()
            return answer

        error = alone()["error"]
        assert error["code"] == 46008 and "url" not in error["data"]
        browser = running.browser("alice")
        page = browser.open(running.link("alice"))
        assert "these agents may use it as well: coder" in page.text
        browser.open(browser.sign_in_there(browser.agree(page), "alice@saas"))
        assert alone()["result"]["content"][0]["text"] == "the notes of alice@saas"
        sent = [r for r in running.records("tools/call") if r.get("decision") == "allow"]
        assert sent[-1]["subject"]["sub"].endswith("/a2a/coder")
        revoke = ["revoke", "--subject", "laptop|alice", "--config", str(running.gw.file)]
        agentgw(*revoke)
        wait_for(lambda: alone().get("error", {}).get("code") == 46003, "the revocation")
        agentgw(*revoke, "--lift")
        wait_for(lambda: "result" in alone(), "the revocation to be lifted")
        assert alone()["result"]["content"][0]["text"] == "the notes of alice@saas"
        running.gw.config["grants"][1].pop("account_of")
        running.gw.reload()
        error = alone()["error"]
        assert error["code"] == 46008 and "no grant says whose" in error["message"]


def test_a_client_registered_by_hand_proves_itself_with_its_secret(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("static")
    with run_house(folder) as running:
        oauth = {"issuer": running.saas.url, "client_id": "gateway", "client_secret": SECRET}
        running.gw.config["servers"]["saas"]["auth"]["oauth"] = oauth
        running.gw.reload()
        running.connect("alice")
        assert running.notes("alice") == "the notes of alice"
        assert "client_assertion" not in running.saas.forms[-1]


def test_a_server_whose_authorization_server_takes_no_documents_says_what_would_help(
    house: House,
) -> None:
    house.saas.metadata = lambda document: document.pop("client_id_metadata_document_supported")
    browser = house.browser("doro")
    page = browser.open(f"{house.gw.url}/oauth/connect/saas")
    assert page.status_code == 502 and "auth.oauth.client_id" in page.text


def test_an_account_that_ended_does_not_keep_the_list_from_others(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with run_house(tmp_path_factory.mktemp("list")) as running:
        running.connect("alice")
        running.connect("bob")
        running.saas.revoke("bob")
        running.gw.stop()
        running.gw.start()
        wait_for(lambda: "result" in running.call("alice").json(), "alice to be served")
        assert running.notes("alice") == "the notes of alice"


def test_the_only_account_revoked_while_the_gateway_was_down_connects_anew(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with run_house(tmp_path_factory.mktemp("gone")) as running:
        running.connect("alice")
        running.gw.stop()
        running.saas.revoke("alice")
        running.gw.start()
        assert running.refused("alice")["data"]["reason"] == "connect_required"
        running.connect("alice")
        assert running.notes("alice") == "the notes of alice"


def test_a_list_is_asked_for_with_the_account_connected_last(house: House) -> None:
    house.connect("lena", "lena@saas")
    house.gw.reload()

    def asked_as() -> list[str]:
        issued = [r.get("issued") or {} for r in house.records("tools/list")]
        return [each["account_of"] for each in issued if each.get("account_of")]

    wait_for(lambda: asked_as()[-1:] == ["laptop|lena"], "the list")


def test_a_revoked_users_account_lists_tools_for_nobody(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with run_house(tmp_path_factory.mktemp("revoked")) as running:
        running.connect("alice")
        assert running.notes("alice") == "the notes of alice"
        running.gw.reload()
        wait_for(lambda: lists_of(running)[-1:] not in ([], [None]), "the list as alice")
        agentgw("revoke", "--subject", "laptop|alice", "--config", str(running.gw.file))
        wait_for(lambda: "46003" in running.call("alice").text, "the revocation", 2)
        running.saas.seen.clear()
        running.gw.reload()
        wait_for(lambda: lists_of(running), "the list to be asked for anew")
        assert set(lists_of(running)) == {None}
        running.connect("bob")
        running.call("bob")
        assert running.notes("bob") == "the notes of bob"


def lists_of(house: House) -> list[str | None]:
    """The credentials that lists of tools were asked for with."""
    return [sent for method, sent, _ in house.saas.seen if method == "tools/list"]
