"""A tool server that answers with the credential it was shown: the answer goes no further."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.external_as import House
from tests.external_as import house as run_house
from tests.harness import allow_all, modern_call, modern_headers, modern_message, wait_for
from tests.repeating_server import MARK, WAYS, RepeatingServer
from tests.saas import house as saas_house

STATIC = "static/secret-of-the-operator+77=="
SHORT = "only-15-letters"
REPEATED = "its answer holds the credential it was shown"
MODES = {
    "token": "token", "bound": "token", "header": "header", "exchange": "exchange",
    "own": "client_credentials",
}  # fmt: skip


def _auth(mode: str, server: str = "") -> dict[str, Any]:
    own = {"authorization_server": "acme", "audience": server, "scope": "tickets.use"}
    match mode:
        case "header":
            return {"mode": "header", "headers": {"X-Static": f"Key {STATIC}"}}
        case "exchange" | "client_credentials":
            return {"mode": mode, mode: own}
    return {"mode": "token"}


class Stage:
    """A gateway with a hostile server for each mode and era, named MODE-ERA, others that list so."""

    def __init__(self, house: House, hostile: RepeatingServer) -> None:
        self.gw = house.gw
        self.hostile = hostile

    def answer(self, server: str, arguments: dict[str, Any]) -> str:
        """All of what a call is answered with, which held nothing that any server was shown."""
        message = modern_call("echo", arguments)
        before = len(self.hostile.shown)
        with self.gw.client() as client:
            headers = modern_headers(message, self.gw.token())
            answer = client.post(f"/mcp/{server}", json=message, headers=headers)
        said = f"{answer.headers} {answer.text}"
        assert answer.status_code == 200 and len(self.hostile.shown) > before, said
        self.holds_nothing(said.encode())
        return answer.text

    def holds_nothing(self, said: bytes) -> None:
        """None of the secrets, as it is or with the letters at its ends escaped."""
        assert MARK.encode() not in said
        secrets = {secret for secret in self.hostile.shown if len(secret) > len(SHORT)}
        assert secrets
        for secret in secrets:
            assert secret[1:-1].encode() not in said, secret[:8]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("repeating")
    with RepeatingServer() as hostile, run_house(folder) as house:
        servers: dict[str, Any] = {}
        for kind, mode in MODES.items():
            for era in ("modern", "handshake"):
                name, url = f"{kind}-{era}", f"{hostile.url}/{kind}/{era}/call"
                servers[name] = {"url": url, "auth": _auth(mode, name), "era": era}
                if kind == "bound":
                    servers[name]["token"] = {"actor_mode": "gateway"}
        for place in ("list", "discover", "honest"):
            url = f"{hostile.url}/{place}"
            servers[place] = {"url": url, "auth": _auth("header"), "era": "modern"}
        short = {"mode": "header", "headers": {"X-Static": SHORT}}
        servers["short"] = {"url": f"{hostile.url}/short/call", "auth": short}
        servers["nothing"] = {"url": f"{hostile.url}/nothing/call", "auth": {"mode": "none"}}
        house.gw.config |= {"servers": servers, "grants": allow_all(*servers)}
        house.gw.reload()
        assert "reload refused" not in house.gw.output, house.gw.output[-500:]
        yield Stage(house, hostile)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("era", ["modern", "handshake"])
@pytest.mark.parametrize("kind", MODES)
def test_an_answer_that_repeats_its_credential_is_a_failure_of_the_server(
    stage: Stage, kind: str, era: str, way: str
) -> None:
    said = stage.answer(f"{kind}-{era}", {"how": way})
    if era == "handshake" and way in ("comment", "event id"):
        assert '"text":"x"' in said  # written anew for the agent, without either
    else:
        assert REPEATED in said and "46005" in said
    assert "honest" in stage.answer("honest", {})


def test_the_record_says_that_the_call_failed_and_why_without_the_secret(stage: Stage) -> None:
    error = json.loads(stage.answer("header-modern", {"how": "text"}))["error"]
    event = error["data"]["event_id"]

    def outcomes() -> list[dict[str, Any]]:
        return [r for r in stage.gw.records() if r["event_id"] == event and "outcome" in r]

    wait_for(outcomes, "the outcome")
    ended = outcomes()
    assert [r["outcome"] for r in ended] == ["failed"]
    assert ended[0]["error"].startswith(REPEATED)
    log = b"".join(file.read_bytes() for file in (stage.gw.state / "log").rglob("*.jsonl"))
    stage.holds_nothing(log + stage.gw.output.encode())


@pytest.mark.parametrize("place", ["list", "discover"])
def test_a_list_or_an_opening_that_repeats_it_makes_the_server_one_that_failed(
    stage: Stage, place: str
) -> None:
    for message in (modern_message("tools/list", {}), modern_message("server/discover", {})):
        with stage.gw.client() as client:
            headers = modern_headers(message, stage.gw.token())
            answer = client.post(f"/mcp/{place}", json=message, headers=headers)
        stage.holds_nothing(answer.content)
        assert '"name":"echo"' not in answer.text and "show " not in answer.text


def test_what_is_shorter_than_sixteen_characters_may_stand_in_an_answer_by_chance(
    stage: Stage,
) -> None:
    assert SHORT in stage.answer("short", {"how": "text"})


def test_a_server_that_is_shown_nothing_is_not_looked_at(stage: Stage) -> None:
    assert "you sent ." in stage.answer("nothing", {"how": "text"})


def test_the_token_of_a_users_own_account_is_not_repeated_either(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with saas_house(tmp_path_factory.mktemp("saas")) as house:
        house.connect("anna")
        house.saas.says = lambda token: f"your token is {token}"
        error = house.refused("anna", 46005)
        assert REPEATED in error["message"]
        house.saas.wanted = frozenset({"more"})
        house.saas.demands = lambda token: f"notes.read {token}"
        refused = house.call("anna")
        said = refused.text + json.dumps(house.gw.records()) + house.gw.output
        tokens = [token.removeprefix("Bearer ") for token in house.saas.bearers()]
        assert tokens and not any(token in said for token in tokens)
        house.saas.reset()
        assert house.notes("anna") == "the notes of anna"
