"""`chain_assurance` in answers and records: how much of the chain the server was shown, and no more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.canary_house import ERAS, SERVERS, CanaryHouse, canary_house
from tests.door import listed
from tests.harness import modern_message, wait_for

HEADER = "agentgw-chain-assurance"
SHOWN = {"token": "token", "bound": "token", "exchange": "audit-only", "grant": "grant"}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CanaryHouse]:
    with canary_house(tmp_path_factory.mktemp("assurance")) as running:
        yield running


def decisions(house: CanaryHouse, event: str) -> list[dict[str, Any]]:
    found = [r for r in house.gw.records() if r["event_id"] == event]
    return [r for r in found if r["phase"] == "decision"]


@pytest.mark.parametrize("agent_era", ERAS)
@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("union", [True, False], ids=["union", "own path"])
def test_an_answer_and_its_records_say_the_same_of_its_server(
    house: CanaryHouse, server: str, agent_era: str, union: bool
) -> None:
    wanted = SHOWN.get(server.partition("-")[0], "audit-only")
    answer = house.ask(server, agent_era, union=union)
    assert "result" in answer.json() and answer.headers[HEADER] == wanted
    made = decisions(house, answer.headers["agentgw-event-id"])
    calls = [r["chain_assurance"] for r in made if r["method"] == "sts/external"] or [
        r["chain_assurance"] for r in made if r["method"] == "tools/call"
    ]
    assert calls == [wanted]


def test_a_stream_says_it_too(house: CanaryHouse) -> None:
    params = {"name": "progress", "arguments": {}, "_meta": {"progressToken": 1}}
    message = modern_message("tools/call", params)
    answer = house.post(message, path="/mcp/token-modern")
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers[HEADER] == "token"


def test_an_answer_of_our_own_says_nothing_of_it(house: CanaryHouse) -> None:
    listed(house)
    for path, message in (
        ("/mcp", modern_message("tools/list", {})),
        ("/mcp", modern_message("tools/call", {"name": "nothing"})),
        ("/mcp/token-modern", modern_message("tools/list", {})),
        ("/mcp/token-modern", modern_message("tools/call", {"name": "nothing"})),
    ):
        assert HEADER not in house.post(message, path=path).headers


def test_records_of_what_is_sent_to_no_server_have_none(house: CanaryHouse) -> None:
    house.ask("saas", "modern", token=house.gw.token(sub="bob"))
    listed(house)
    house.exchange(f"{house.gw.url}/mcp")
    house.gw.reload()
    silent = {"config/reload", "server/approve", "connect/link", "connect/finish", "oauth/token"}

    def said() -> dict[str, set[object]]:
        found: dict[str, set[object]] = {}
        for record in house.gw.records():
            if record["phase"] == "decision":
                found.setdefault(record["method"], set()).add(record["chain_assurance"])
        return found

    wait_for(lambda: silent <= set(said()), "the records")
    assert {method: said()[method] for method in silent} == {method: {None} for method in silent}
    unions = [r for r in house.gw.records() if r["method"] == "tools/list" and not r["server"]]
    assert unions and {r.get("chain_assurance") for r in unions} == {None}
