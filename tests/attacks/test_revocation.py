"""What was revoked is refused within a second, by every worker, however well it was known before."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from agentgw.core.exchange_request import ACCESS_TOKEN, GRANT_TYPE
from tests.door import Door, door
from tests.harness import (
    Gateway,
    allow_all,
    modern_call,
    modern_headers,
    modern_message,
    wait_for,
)

BOUND_SECONDS = 1.0
ECHO = modern_call("time__echo", {"text": "hello"})
LISTEN = modern_message("subscriptions/listen", {"notifications": {}}, 7)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """A gateway of two workers; `time` answers at once, `endless` never ends a stream."""
    with door(tmp_path_factory.mktemp("two"), workers=2) as opened:
        gw = opened.gw
        url = str(gw.config["servers"]["time"]["url"]).partition("/mcp/")[0]
        gw.config["servers"]["endless"] = {
            "url": f"{url}/mcp/sse-endless?on=subscriptions/listen&as=endless"
        }
        gw.config["grants"] = allow_all("time", "endless")
        gw.reload()
        yield opened


@contextlib.contextmanager
def a_client_of_each_worker(gw: Gateway, token: str) -> Iterator[list[httpx2.Client]]:
    """Two kept-alive connections, one to each worker, both of which know the token well by now."""
    with contextlib.ExitStack() as stack:
        found: dict[str, httpx2.Client] = {}
        deadline = time.monotonic() + 10
        while len(found) < 2:
            assert time.monotonic() < deadline, "one worker answers everything"
            client = stack.enter_context(gw.client())
            answer = call(client, token)
            assert answer.status_code == 200, answer.text
            found.setdefault(worker_of(gw, answer), client)
        for client in found.values():
            assert call(client, token).status_code == 200
        yield list(found.values())


def call(client: httpx2.Client, token: str, **headers: str) -> httpx2.Response:
    return client.post("/mcp", json=ECHO, headers={**modern_headers(ECHO, token), **headers})


def worker_of(gw: Gateway, answer: httpx2.Response) -> str:
    event = answer.headers["agentgw-event-id"]
    return str(next(r["log"] for r in gw.records() if r["event_id"] == event))


def oauth(gw: Gateway, path: str, agent: str = "planner", **form: str) -> httpx2.Response:
    with gw.client() as client:
        return client.post(f"/oauth/{path}", data=form, auth=(agent, f"{agent}-secret-for-tests"))


def exchanged(at: Door, token: str, target: str, agent: str = "planner") -> str:
    kind = "audience" if "/a2a/" in target else "resource"
    form = {
        "grant_type": GRANT_TYPE, "subject_token": token, "subject_token_type": ACCESS_TOKEN,
        kind: target,
    }  # fmt: skip
    answer = oauth(at.gw, "token", agent, **form)
    assert answer.status_code == 200, answer.text
    at.issuer.issued.append(made := str(answer.json()["access_token"]))
    return made


def refused_everywhere(
    clients: list[httpx2.Client], token: str, since: float, is_refused: Callable[[Any], bool]
) -> None:
    """Each worker refuses whatever it is sent later than the bound after `since`, or sooner, for good."""
    for client in clients:
        while time.monotonic() - since < BOUND_SECONDS and not is_refused(call(client, token)):
            pass
    for client in clients * 3:
        assert is_refused(call(client, token))


def is_invalid_token(answer: httpx2.Response) -> bool:
    challenge = answer.headers.get("www-authenticate", "")
    return answer.status_code == 401 and 'error="invalid_token"' in challenge


def is_let_in(answer: httpx2.Response) -> bool:
    return answer.status_code == 200 and "result" in answer.json()


def is_46003(answer: httpx2.Response) -> bool:
    return answer.status_code == 200 and answer.json().get("error", {}).get("code") == 46003


def test_a_revoked_token_known_to_every_worker(two: Door) -> None:
    token = exchanged(two, two.gw.token(), f"{two.gw.url}/mcp")
    with a_client_of_each_worker(two.gw, token) as clients:
        since = time.monotonic()
        assert oauth(two.gw, "revoke", token=token).status_code == 200
        refused_everywhere(clients, token, since, is_invalid_token)
    (record,) = [r for r in two.gw.records() if r["method"] == "oauth/revoke"]
    assert (record["decision"], record["detail"]["effect"]) == ("allow", "revoked")


def test_a_revoked_parents_grandchild(two: Door) -> None:
    users = two.gw.token()
    handed = exchanged(two, users, f"{two.gw.url}/a2a/coder")
    grandchild = exchanged(two, handed, f"{two.gw.url}/mcp", "coder")
    stranger = two.gw.token()
    with a_client_of_each_worker(two.gw, grandchild) as clients:
        since = time.monotonic()
        assert oauth(two.gw, "revoke", token=users).status_code == 200
        refused_everywhere(clients, grandchild, since, is_invalid_token)
        refused_everywhere(clients, users, since, is_invalid_token)
        assert all(call(client, stranger).status_code == 200 for client in clients)
    again = oauth(
        two.gw, "token", "coder",
        grant_type=GRANT_TYPE, subject_token=handed, subject_token_type=ACCESS_TOKEN,
        resource=f"{two.gw.url}/mcp",
    )  # fmt: skip
    assert again.status_code == 400, again.text


def test_an_open_stream_of_a_revoked_token(two: Door) -> None:
    token = exchanged(two, two.gw.token(), f"{two.gw.url}/mcp")
    with contextlib.ExitStack() as stack:
        streams = [Listening(stack, two.gw, token) for _ in range(6)]
        spared = Listening(stack, two.gw, two.gw.token())
        since = time.monotonic()
        assert oauth(two.gw, "revoke", token=token).status_code == 200
        for stream in streams:
            stream.thread.join(10)
            assert stream.ended is not None and stream.ended - since < BOUND_SECONDS
            error = json.loads(stream.text.rpartition("data:")[2])
            assert (error["id"], error["error"]["code"]) == (7, 46003)
            assert error["error"]["data"]["reason"] == "revoked"
        assert spared.ended is None
        assert oauth(two.gw, "revoke", token=spared.token).status_code == 200
        spared.thread.join(10)
        assert spared.ended is not None


class Listening:
    """A stream that a thread reads to its end, which it notes."""

    def __init__(self, stack: contextlib.ExitStack, gw: Gateway, token: str) -> None:
        client = stack.enter_context(gw.client())
        headers = modern_headers(LISTEN, token)
        stream = client.stream("POST", "/mcp/endless", json=LISTEN, headers=headers)
        self._answer = stack.enter_context(stream)
        assert self._answer.status_code == 200
        self._chunks = self._answer.iter_text()
        self.token = token
        self.text = next(self._chunks)
        self.ended: float | None = None
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        self.text += "".join(self._chunks)
        self.ended = time.monotonic()


def test_a_revoked_token_reaches_no_tool_and_spoils_nobodys_call(two: Door) -> None:
    token = exchanged(two, two.gw.token(), f"{two.gw.url}/mcp")
    with a_client_of_each_worker(two.gw, token) as clients:
        since = time.monotonic()
        assert oauth(two.gw, "revoke", token=token).status_code == 200
        refused_everywhere(clients, token, since, is_invalid_token)
        with two.untouched():
            answers = [call(client, token) for client in clients]
    assert all(is_invalid_token(answer) for answer in answers)
    two.said += [answer.content for answer in answers]
    assert not two.leaks()


def at_the_command_line(gw: Gateway, *arguments: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(gw.command("revoke", *arguments, "--json").stdout)
    return answer


@pytest.mark.parametrize("who", [("--subject", "laptop|bob"), ("--agent", "planner")])
def test_a_user_or_agent_revoked_at_the_command_line_and_lifted(
    two: Door, who: tuple[str, str]
) -> None:
    token = two.gw.token(sub="bob")
    with a_client_of_each_worker(two.gw, token) as clients, contextlib.ExitStack() as stack:
        stream = Listening(stack, two.gw, token)
        done = at_the_command_line(two.gw, *who)
        since = time.monotonic()
        refused_everywhere(clients, token, since, is_46003)
        stream.thread.join(10)
        assert stream.ended is not None and "46003" in stream.text
        later = two.gw.token(sub="bob")
        assert is_46003(call(clients[0], later)), "tokens issued afterwards too"
        listed = modern_message("tools/list", {})
        answer = two.post(listed, token=token)
        assert (answer.status, answer.code) == (200, 46003)
        opened = two.post(modern_message("server/discover", {}), path="/mcp/time", token=token)
        assert (opened.status, opened.code) == (200, None), "clients would take us for another era"
        lifted = at_the_command_line(two.gw, *who, "--lift")
        since = time.monotonic()
        for client in clients:
            while time.monotonic() - since < BOUND_SECONDS and not is_let_in(call(client, token)):
                pass
        assert all(is_let_in(call(client, token)) for client in clients), "still refused"
    for event, method in ((done, "revocation"), (lifted, "revocation/lift")):
        wait_for(lambda: found(two, event), "the record", 5)  # noqa: B023 - called at once
        (record,) = found(two, event)
        assert (record["method"], record["detail"]["by"]) == (method, "cli")
        assert record["detail"]["key"] == event["key"]


def found(at: Door, event: dict[str, Any]) -> list[dict[str, Any]]:
    return [r for r in at.gw.records() if r["event_id"] == event["event_id"]]


def test_a_revocation_made_while_no_gateway_ran(tmp_path: Path) -> None:
    with door(tmp_path) as at:
        token = at.gw.token()
        assert at.post(ECHO, token=token).status == 200
        at.gw.stop()
        done = at_the_command_line(at.gw, "--agent", "planner")
        at.gw.start()
        assert at.post(ECHO, token=token).code == 46003
        wait_for(lambda: found(at, done), "the record", 5)


def test_nobody_is_served_while_revocations_cannot_be_read(tmp_path: Path) -> None:
    with door(tmp_path) as at:
        at.honest()
        with contextlib.closing(sqlite3.connect(at.gw.state / "agentgw.db")) as database:
            database.execute("ALTER TABLE revocations RENAME TO elsewhere")
            database.commit()
            wait_for(lambda: at.post(ECHO).status == 503, "the refusal", 5)
            answer = at.post(ECHO)
            assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, 46004, "1")
            assert oauth(at.gw, "introspect", token=at.gw.token()).status_code == 503
            database.execute("ALTER TABLE elsewhere RENAME TO revocations")
            database.commit()
        wait_for(lambda: at.post(ECHO).status == 200, "recovery", 5)


def test_nobody_is_served_while_a_revocation_cannot_be_understood(tmp_path: Path) -> None:
    with door(tmp_path) as at:
        at.honest()
        with contextlib.closing(sqlite3.connect(at.gw.state / "agentgw.db")) as database:
            database.execute("INSERT INTO unrecorded VALUES ('e', 'revoke', 0, 'no JSON', 0)")
            database.commit()
            wait_for(lambda: at.post(ECHO).status == 503, "the refusal", 5)
            database.execute("DELETE FROM unrecorded")
            database.commit()
        wait_for(lambda: at.post(ECHO).status == 200, "recovery", 5)
