"""Canaries in every place where a caller could put a credential: none reaches a tool server, and nothing that
the gateway answers, says or keeps holds a credential of either side."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.canary_house import (
    ERAS,
    GATEWAYS_OWN,
    HTTP,
    LOCAL_KEY,
    SECRETS,
    SERVERS,
    STATIC,
    STDIO,
    CanaryHouse,
    canary_house,
)
from tests.harness import modern_headers, modern_message, wait_for

CANARY = "canary-0d4c21a7b9"
HEADERS = (
    "Cookie", "Cookie2", "Set-Cookie", "Proxy-Authorization", "X-Authorization", "X-Auth-Token", "X-Api-Key",
    "X-Access-Token", "X-Id-Token", "X-Amz-Security-Token", "X-Goog-Iap-Jwt-Assertion",
    "Cf-Access-Jwt-Assertion",
    "X-Ms-Token-Aad-Access-Token", "X-Forwarded-Access-Token", "X-Forwarded-User", "X-Forwarded-Email",
    "X-Forwarded-For", "X-Forwarded-Client-Cert", "Forwarded", "X-User", "X-Remote-User", "Remote-User",
    "X-Webauth-User", "Client-Cert", "Ssl-Client-Cert", "Authentication-Info", "Signature", "Signature-Input",
    "Txn-Token", "Workload-Identity-Token", "Dpop", "Traceparent", "Tracestate", "Baggage", "X-Request-Id",
    "X-Csrf-Token", "Origin-Agent-Cluster", "Referer", "From", "Via", "User-Agent", "X-Static", "Local-Key",
    "Mcp-Param-Token",
)  # fmt: skip
PLACES: dict[str, Any] = {
    "argument": {"params": {"arguments": {"text": "TOKEN"}}},
    "deep argument": {"params": {"arguments": {"text": "x", "deep": [{"er": "Bearer TOKEN"}]}}},
    "argument's name": {"params": {"arguments": {"TOKEN": 1}}},
    "_meta": {"params": {"_meta": {"authorization": "Bearer TOKEN"}}},
    "name in _meta": {"params": {"_meta": {"example.com/TOKEN": True}}},
    "progress token": {"params": {"_meta": {"progressToken": "TOKEN"}}},
    "trace": {"params": {"_meta": {"baggage": "a=TOKEN"}}},
    "client": {"params": {"_meta": {"io.modelcontextprotocol/clientInfo": {"name": "TOKEN"}}}},
    "params": {"params": {"access_token": "TOKEN"}},
    "message": {"authorization": "TOKEN"},
    "id": {"id": "TOKEN"},
    "name": {"params": {"name": "TOKEN"}},
}
both_agents = pytest.mark.parametrize("agent_era", ERAS)
every_server = pytest.mark.parametrize("server", SERVERS)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CanaryHouse]:
    with canary_house(tmp_path_factory.mktemp("canaries")) as running:
        yield running


def usable(token: str) -> str:
    """The part of a token without which it opens nothing: its signature, or all of it."""
    return token.rpartition(".")[2]


def hand_over(house: CanaryHouse) -> str:
    """planner's hand-over of alice's work to coder."""
    with house.gw.client() as client:
        answer = client.post(
            "/oauth/token",
            data={
                "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
                "subject_token": house.gw.token(),
                "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
                "audience": f"{house.gw.url}/a2a/coder",
            },
            auth=("planner", "planner-secret-for-tests"),
        )
    assert answer.status_code == 200, answer.text
    house.issuer.issued.append(token := str(answer.json()["access_token"]))
    return token


@both_agents
@every_server
@pytest.mark.parametrize("union", [True, False], ids=["union", "own path"])
def test_in_every_header_and_in_the_query_at_once(
    house: CanaryHouse, server: str, agent_era: str, union: bool
) -> None:
    before, token = house.called(server), house.gw.token()
    headers = {name: f"{CANARY}-{name}" for name in HEADERS}
    # The record keeps what a client calls itself, unless that is a token.
    headers["User-Agent"] = f"eyJhbGciOiJub25lIn0.{CANARY}.x"
    query = f"?access_token={CANARY}&key={CANARY}"
    answer = house.ask(server, agent_era, headers, query, token=token, union=union)
    assert answer.status_code == 200 and "result" in answer.json(), answer.text
    assert house.called(server) == before + 1
    reached = json.dumps(house.reached())
    assert CANARY not in reached and usable(token) not in reached
    assert CANARY not in f"{answer.headers}{answer.text}"


@both_agents
@every_server
def test_in_the_header_of_a_hand_over(house: CanaryHouse, server: str, agent_era: str) -> None:
    handed = hand_over(house)
    agent = house.gw.token(azp="coder", sub="service-coder", groups=None)
    header = {"Agentgw-Subject-Token": handed}
    before = house.called(server)
    if agent_era == "handshake":
        session = house.ask_for_session(server, agent, header)
        answer = house.ask(server, agent_era, header | session, token=agent)
    else:
        answer = house.ask(server, agent_era, header, token=agent)
    assert answer.status_code == 200, answer.text
    if server.startswith("exchange-"):
        assert house.called(server) == before, "no other issuer could exchange a token of ours"
    else:
        assert house.called(server) == before + 1, answer.text
    reached = json.dumps(house.reached()).lower()
    assert usable(handed).lower() not in reached and usable(agent).lower() not in reached
    assert "agentgw-subject-token" not in reached


@every_server
def test_a_hand_over_in_the_message_that_takes_it_up_is_refused(
    house: CanaryHouse, server: str
) -> None:
    handed = hand_over(house)
    agent = house.gw.token(azp="coder", sub="service-coder", groups=None)
    before = house.called(server)
    for written in (handed, f"\\u{ord(handed[0]):04x}{handed[1:]}"):
        answer = house.ask_in_bytes(
            server, "modern", PLACES["deep argument"], {"TOKEN": written}, agent,
            {"Agentgw-Subject-Token": handed},
        )  # fmt: skip
        assert answer.status == 400 and b"token of its own request" in answer.body, answer
    assert house.called(server) == before


@every_server
def test_a_hand_over_that_is_none_goes_nowhere(house: CanaryHouse, server: str) -> None:
    before = house.called(server)
    answer = house.ask(server, "modern", {"Agentgw-Subject-Token": CANARY})
    assert answer.status_code == 401 and CANARY not in f"{answer.headers}{answer.text}"
    assert house.called(server) == before


@both_agents
@every_server
def test_a_callers_own_token_in_its_message_is_refused(
    house: CanaryHouse, server: str, agent_era: str
) -> None:
    token = house.gw.token()
    spellings = (token, f"\\u{ord(token[0]):04x}{token[1:]}")
    house.session(server)
    before = house.called(server)
    for place, changes in PLACES.items():
        for written in spellings:
            answer = house.ask_in_bytes(server, agent_era, changes, {"TOKEN": written}, token)
            assert answer.status == 400, (place, answer)
            assert b"token of its own request" in answer.body, (place, answer)
            assert token.encode() not in answer.body
    assert house.called(server) == before
    assert usable(token) not in json.dumps(house.reached())


@every_server
def test_in_openings_notifications_responses_streams_and_endings(
    house: CanaryHouse, server: str
) -> None:
    token = house.gw.token()
    session = house.handshake(f"/mcp/{server}", token)
    headers = {
        "Authorization": f"Bearer {token}", "Mcp-Session-Id": session, "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2025-11-25",
        "Cookie": CANARY, "X-Api-Key": CANARY, "X-Forwarded-User": CANARY,
    }  # fmt: skip
    bodies: list[dict[str, Any]] = [
        {"method": "notifications/initialized"},
        {"method": "notifications/progress", "params": {"progressToken": 7, "progress": 1}},
        {"id": 9, "result": {"roots": []}},
        {"id": 10, "method": "tools/list"},
    ]
    path = f"/mcp/{server}?token={CANARY}"
    for body in bodies:
        sent = json.dumps({"jsonrpc": "2.0", **body}).encode()
        assert house.request("POST", path, headers, sent).status in (200, 202, 403)
    assert house.request("DELETE", path, headers).status in (200, 405)
    reached = json.dumps(house.reached())
    assert CANARY not in reached and usable(token) not in reached


def test_programs_get_what_the_operator_gave_them_and_nothing_else(house: CanaryHouse) -> None:
    started = [line for line in house.stdio() if "environ" in line]
    assert len(started) == len(STDIO)
    for process in started:
        assert process["environ"]["LOCAL_KEY"] == LOCAL_KEY
        assert GATEWAYS_OWN not in json.dumps(process) and STATIC not in json.dumps(process)
        assert not {name for name in process["environ"] if name.startswith("AGENTGW")}
    assert '"text": "x"' in json.dumps(house.stdio()), "their standard input was looked at"


def test_a_static_secret_reaches_its_servers_and_nobody_else(house: CanaryHouse) -> None:
    for server in HTTP:
        house.ask(server, "modern")
    holders = {str(r["query"]["as"]) for r in house.seen() if STATIC in json.dumps(r)}
    assert holders == {"header-modern", "header-handshake"}
    assert STATIC not in json.dumps([*house.stdio(), *house.saas.seen])
    assert all(r["headers"].get("x-static") == STATIC for r in house.seen() if _is_header(r))


def _is_header(request: dict[str, Any]) -> bool:
    return str(request["query"]["as"]).startswith("header-")


def test_each_credential_reaches_the_server_it_was_made_for_only(house: CanaryHouse) -> None:
    for server in SERVERS:
        house.ask(server, "modern")
    holders: dict[str, set[str]] = {}
    for request in house.seen():
        line = request["headers"].get("authorization")
        if line is not None:
            holders.setdefault(line, set()).add(str(request["query"]["as"]))
    for _, line, _ in house.saas.seen:
        if line is not None:
            holders.setdefault(line, set()).add("saas")
    assert holders and all(len(servers) == 1 for servers in holders.values())
    with_one = {name for servers in holders.values() for name in servers}
    assert with_one == {s for s in HTTP if not s.startswith(("none", "header"))} | {"saas"}


def test_nothing_that_is_answered_said_or_kept_holds_a_credential(house: CanaryHouse) -> None:
    for server in SERVERS:
        for agent_era in ERAS:
            house.ask(server, agent_era)
    message = modern_message("tools/list", {})
    house.post(message, modern_headers(message, house.gw.token()))
    house.ask("saas", "modern", token=house.gw.token(sub="bob"))
    house.ask("token-modern", "modern", token=house.gw.token(exp=1))
    wait_for(lambda: len(house.gw.records()) > 2, "records")
    events = {r["method"]: str(r["event_id"]) for r in house.gw.records()}
    assert {"tools/call", "sts/external", "connect/link", "oauth/token"} <= set(events)
    shown = [house.command("config", "show"), house.command("config", "show", "--origin")]
    shown += [house.command("audit", "search", "--json"), house.command("audit", "search")]
    shown += [house.command("server", "list"), house.command("audit", "tail", "-n", "50")]
    for event in events.values():
        shown += [
            house.command("audit", "show", event),
            house.command("audit", "show", event, "--json"),
        ]
        shown += [house.command("why", event), house.command("why", event, "--json")]
    assert all(shown) and "tools/call" in shown[2] and "${env:STATIC}" in shown[0]
    pages = house.pages()
    assert "alice" in pages["/account"] and "46005" in pages["/errors"]
    house.gw.stop()
    places = {**house.kept(), "said": b"\n".join(house.said)}
    house.gw.start()
    assert {"stderr", "agentgw.db", "said"} <= set(places)
    assert b"tools/call" in b"".join(v for k, v in places.items() if k.endswith(".jsonl"))
    secrets = house.credentials()
    assert len(secrets) > 100
    for place, text in places.items():
        assert CANARY.encode() not in text, place
        runs = set(re.findall(rb"[A-Za-z0-9_-]{8,}", text))
        found = {secret[:12] for secret in secrets if secret.encode() in runs}
        found |= {secret for secret in SECRETS if secret.encode() in text}
        assert not found, (place, found)
