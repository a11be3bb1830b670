"""What a reload leaves as it was, and says so."""

from __future__ import annotations

from typing import Any

from agentgw.app.restart import keep_until_restart
from agentgw.config import Config


def config(**changes: Any) -> Config:
    given = {"version": 1, "public_url": "https://gw.example.com", "state_dir": "/nowhere"}
    return Config.model_validate(given | changes)


def test_what_connections_and_log_were_opened_with_waits_for_a_restart() -> None:
    running = config(limits={"headers": 9000})
    wanted = config(
        listen="127.0.0.1:1",
        limits={"headers": 9001, "header_count": 9, "header_deadline": 9, "body": 9, "call": 9},
        audit={"checkpoint_seconds": 9, "checkpoint_records": 9},
    )
    kept, names = keep_until_restart(running, wanted)
    assert names == [
        "listen",
        "limits.headers",
        "limits.header_count",
        "limits.header_deadline",
        "audit.checkpoint_seconds",
        "audit.checkpoint_records",
    ]
    assert (kept.limits.headers, kept.limits.header_count) == (9000, 100)
    assert (kept.limits.body, kept.limits.call) == (9, 9)
    assert (kept.listen, kept.audit) == (running.listen, running.audit)


def test_a_reload_of_the_same_leaves_nothing() -> None:
    assert keep_until_restart(config(), config()) == (config(), [])


def test_commands_of_running_servers_stay_and_new_servers_come() -> None:
    running = config(servers={"a": {"command": "one"}})
    wanted = config(servers={"a": {"command": "two", "timeout": 9}, "b": {"command": "three"}})
    kept, names = keep_until_restart(running, wanted)
    assert names == ["servers.a.command"]
    assert (kept.servers["a"].command, kept.servers["a"].timeout) == ("one", 9)
    assert kept.servers["b"].command == "three"
