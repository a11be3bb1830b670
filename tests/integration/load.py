"""Agents that call all the time, and a look at whether what they saw is on record."""

from __future__ import annotations

import base64
import http.client
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from agentgw.audit.verify import verify
from agentgw.core.checkpoint import parse_vkey
from tests.harness import ROOT, Gateway, modern_call, modern_headers, wait_for

PAUSE = 0.01


class Callers:
    """`count` agents with a kept connection each. `tool` gives name and arguments of the next call."""

    def __init__(
        self,
        gateway: Gateway,
        count: int = 4,
        tool: Callable[[], tuple[str, dict[str, Any]]] = lambda: ("ok__echo", {"text": "hi"}),
    ) -> None:
        self._url = urlsplit(gateway.url)
        self._token = gateway.token()
        self._tool = tool
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(count)]
        self.answers: list[tuple[int, str, dict[str, Any]]] = []
        """Status, event id and body of every answer."""
        self.broken: list[str] = []
        """What went wrong on connections on which a request had been sent."""
        self.refused = 0

    def start(self) -> Callers:
        """Begin to call."""
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        """Let each finish its last call."""
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

    @property
    def failures(self) -> list[Any]:
        """What was not the answer of the tool."""
        wrong = [answer for answer in self.answers if answer[0] != 200 or "result" not in answer[2]]
        return [*self.broken, *wrong]

    def more(self, count: int = 1) -> None:
        """Wait until so many further answers came."""
        seen = len(self.answers)
        wait_for(lambda: len(self.answers) >= seen + count, f"{count} answers")

    def _run(self) -> None:
        connection: http.client.HTTPConnection | None = None
        while not self._stop.is_set():
            try:
                if connection is None:
                    connection = http.client.HTTPConnection(
                        str(self._url.hostname), self._url.port, timeout=30
                    )
                    connection.connect()
            except OSError:
                self.refused += 1
                connection = None
                self._stop.wait(PAUSE)
                continue
            try:
                self._call(connection)
            except (OSError, http.client.HTTPException) as error:
                self.broken.append(repr(error))
                connection.close()
                connection = None
        if connection is not None:
            connection.close()

    def _call(self, connection: http.client.HTTPConnection) -> None:
        message = modern_call(*self._tool())
        connection.request(
            "POST", "/mcp", json.dumps(message), modern_headers(message, self._token)
        )
        answer = connection.getresponse()
        body = answer.read()
        event_id = answer.headers.get("Agentgw-Event-Id", "")
        kind = answer.headers.get("Content-Type", "")
        if kind == "text/event-stream":
            body = body.rpartition(b"data: ")[2]
        document = json.loads(body) if body.strip().startswith(b"{") else {"text": repr(body)}
        self.answers.append((answer.status, event_id, document))


@contextmanager
def calling(gateway: Gateway, count: int = 4, **options: Any) -> Iterator[Callers]:
    """Callers at work."""
    callers = Callers(gateway, count, **options).start()
    try:
        yield callers
    finally:
        callers.stop()


def assert_log_holds(gateway: Gateway) -> None:
    """Both verifiers say that every log of the gateway is what it was."""
    vkey = (gateway.state / "keys" / "checkpoints.vkey").read_text().strip()
    found = verify(gateway.state / "log", [parse_vkey(vkey)])
    assert found.ok, found.first_bad
    command = [sys.executable, str(ROOT / "tools/verify_log.py")]
    done = subprocess.run(
        [*command, str(gateway.state / "log"), "--key", vkey, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def assert_on_record(gateway: Gateway, canary: Path, answers: list[tuple[int, str, Any]]) -> int:
    """Every request the canary saw and every answer a client got has its decision; how many those were."""
    decisions = [r for r in gateway.records() if r.get("phase") == "decision"]
    issued = {r["issued"]["jti"] for r in decisions if r.get("issued")}
    arrived = tokens_seen(canary)
    assert arrived <= issued, f"{len(arrived - issued)} upstream requests without a decision"
    events = {r["event_id"] for r in decisions}
    unknown = [event for _, event, _ in answers if event and event not in events]
    assert not unknown, f"{len(unknown)} answers without a decision"
    return len(arrived)


def tokens_seen(canary: Path) -> set[str]:
    """The jti of every token that reached the tool server; each is of one request only."""
    seen: list[str] = []
    for line in canary.read_bytes().splitlines():
        request = json.loads(line)
        if "headers" in request:
            scheme, _, token = request["headers"]["authorization"].partition(" ")
            assert scheme == "Bearer"
            seen.append(claims_of(token)["jti"])
    assert len(seen) == len(set(seen)), "a token was sent twice"
    return set(seen)


def claims_of(token: str) -> dict[str, Any]:
    """The claims of a token, unverified."""
    part = token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return claims
