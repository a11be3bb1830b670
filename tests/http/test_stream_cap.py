"""One agent holds only so many streams; a reload says anew how many."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import httpx2

from tests.door import Door
from tests.harness import (
    Issuer,
    allow_all,
    faulty_server,
    gateway,
    modern_headers,
    modern_message,
    wait_for,
)

LISTEN = modern_message("subscriptions/listen", {"notifications": {}}, 7)


@contextlib.contextmanager
def listening(door: Door) -> Iterator[httpx2.Response]:
    """A stream whose first bytes have arrived, or the refusal of one."""
    headers = modern_headers(LISTEN, door.gw.token())
    with (
        door.gw.client() as client,
        client.stream("POST", "/mcp/endless", json=LISTEN, headers=headers) as answer,
    ):
        received = answer.iter_raw()  # which ends the stream when it is dropped
        next(received)
        yield answer


def test_a_stream_too_many_is_429_with_a_time_to_wait_until_a_reload_allows_it(
    tmp_path: Path,
) -> None:
    issuer = Issuer().start()
    with faulty_server() as url, contextlib.ExitStack() as streams:
        streams.callback(issuer.stop)
        changes = {
            "servers": {"endless": {"url": f"{url}/mcp/sse-endless?on=subscriptions/listen"}},
            "grants": allow_all("endless"),
            "limits": {"streams_per_agent": 1},
        }
        door = Door(streams.enter_context(gateway(tmp_path, issuer, changes)), issuer, tmp_path)
        assert streams.enter_context(listening(door)).status_code == 200
        refused = door.post(LISTEN, path="/mcp/endless")
        assert (refused.status, refused.headers["retry-after"]) == (429, "1")
        answer = json.loads(refused.body)
        assert (answer["id"], answer["error"]["code"]) == (7, 46007)
        data = answer["error"]["data"]
        assert (data["reason"], data["retry_after_ms"]) == ("limited", 1000)
        assert data["event_id"] == refused.headers["agentgw-event-id"]
        door.gw.config["limits"] = {"streams_per_agent": 2, "header_count": 99}
        door.gw.reload()
        wait_for(lambda: "stay as they were: limits.header_count" in door.gw.output, "the word")
        assert streams.enter_context(listening(door)).status_code == 200
        assert door.post(LISTEN, path="/mcp/endless").status == 429
        wait_for(lambda: refusals(door) == 2, "the outcomes")


def refusals(door: Door) -> int:
    """How many calls were let in and then refused."""
    return sum(r["phase"] == "outcome" and r["outcome"] == "refused" for r in door.gw.records())
