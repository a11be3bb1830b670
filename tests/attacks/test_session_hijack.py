"""A session id is worth something only to whom it was given, on the path it was given for."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest

from agentgw.core.principal import Caller, Hop, Inbound, Subject
from agentgw.gateway.incoming import NewSession
from agentgw.http.sessions import LIFE, SessionSeal
from tests.door import Door

LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
CALL = {
    "jsonrpc": "2.0", "id": 1, "method": "tools/call",
    "params": {"name": "echo", "arguments": {"text": "mine"}},
}  # fmt: skip


def flipped(session: str) -> list[str]:
    raw = bytearray(base64.urlsafe_b64decode(session + "=" * (-len(session) % 4)))
    made = []
    for at in (0, 12, len(raw) // 2, len(raw) - 1):
        copy = bytearray(raw)
        copy[at] ^= 1
        made.append(base64.urlsafe_b64encode(copy).rstrip(b"=").decode())
    return made


@pytest.mark.parametrize("path", ["/mcp/time", "/mcp/old", "/mcp"])
def test_its_owner_may_use_it(door: Door, path: str) -> None:
    session = door.handshake(path)
    assert door.in_session(LIST, session, path=path).status == 200


@pytest.mark.parametrize("path", ["/mcp/time", "/mcp/old", "/mcp"])
def test_another_users_session_does_not_exist(door: Door, path: str) -> None:
    session = door.handshake(path)
    with door.untouched():
        mallory = door.gw.token(sub="mallory")
        assert door.in_session(CALL, session, path=path, token=mallory).status == 404
        end = door.request(
            "DELETE", path, {"Authorization": f"Bearer {mallory}", "Mcp-Session-Id": session}
        )
        assert end.status == 404
    assert door.in_session(LIST, session, path=path).status == 200


def test_another_agents_session_does_not_exist(door: Door) -> None:
    session = door.handshake("/mcp/time")
    with door.untouched():
        stranger = door.gw.token(azp="stranger")
        assert door.in_session(CALL, session, token=stranger).status in (401, 404)
        assert door.in_session(CALL, session, token=door.gw.token(azp="coder")).status in (401, 404)


def test_a_session_of_one_path_does_not_exist_on_another(door: Door) -> None:
    session = door.handshake("/mcp/time")
    with door.untouched():
        for path in ("/mcp/other", "/mcp/old", "/mcp"):
            assert door.in_session(CALL, session, path=path).status == 404


def test_a_tampered_or_invented_session_does_not_exist(door: Door) -> None:
    session = door.handshake("/mcp/time")
    invented = ["x", "A" * 64, session + "=", session[:-1], session.swapcase(), f" {session}x", "é"]
    with door.untouched():
        for wrong in [*flipped(session), *invented]:
            assert door.in_session(CALL, wrong).status == 404


def test_the_servers_own_session_id_is_none_at_our_door(door: Door) -> None:
    session = door.handshake("/mcp/old")
    assert door.in_session(LIST, session, path="/mcp/old").status == 200
    inner = {r["headers"].get("mcp-session-id") for r in door.seen()} - {None}
    assert inner
    assert session not in inner
    with door.untouched():
        for wrong in inner:
            assert door.in_session(CALL, wrong, path="/mcp/old").status == 404


def test_a_stateless_agent_cannot_ride_on_a_session(door: Door) -> None:
    session = door.handshake("/mcp/time")
    answer = door.post(
        {**LIST, "params": {"_meta": {}}}, {"Mcp-Session-Id": session}, path="/mcp/time"
    )
    assert answer.status == 400


CALLER = Caller(
    subject=Subject("acme", "alice", "acme|alice"),
    chain=(Hop("https://gw/a2a/coder", "coder", "exchange"),),
    scopes=frozenset(),
    resources=frozenset({"https://gw/mcp"}),
    exp=2_000_000_000,
    inbound=Inbound("https://idp", "j", "sha-256:x"),
    presenter="https://gw/a2a/coder",
)  # fmt: skip
SEAL = SessionSeal(b"k" * 32, lambda count: b"n" * count)
NEW = NewSession("2025-11-25", True, "upstream-id")


def test_a_seal_opens_for_the_same_caller_and_path_until_it_expires() -> None:
    sealed = SEAL.seal(NEW, CALLER, "time", 1000.0)
    opened = SEAL.open(sealed, CALLER, "time", 1000.0 + LIFE - 1)
    assert opened is not None
    assert (opened.version, opened.relayed, opened.upstream) == ("2025-11-25", True, "upstream-id")
    assert SEAL.open(sealed, CALLER, "time", 1000.0 + LIFE) is None
    assert b"upstream-id" not in base64.urlsafe_b64decode(sealed + "==")


@pytest.mark.parametrize(
    "other",
    [
        replace(CALLER, subject=Subject("acme", "bob", "acme|bob")),
        replace(CALLER, subject=Subject("evil", "alice", "evil|alice")),
        replace(CALLER, chain=()),
        replace(CALLER, chain=(Hop("https://gw/a2a/planner", "planner", "exchange"),)),
        replace(
            CALLER, chain=(*CALLER.chain, Hop("https://gw/a2a/planner", "planner", "exchange"))
        ),
    ],
)
def test_a_seal_opens_for_nobody_else(other: Caller) -> None:
    sealed = SEAL.seal(NEW, CALLER, "time", 1000.0)
    assert SEAL.open(sealed, other, "time", 1000.0) is None
    for server in (None, "tim", "time2"):
        assert SEAL.open(sealed, CALLER, server, 1000.0) is None


def test_a_seal_of_another_key_is_none() -> None:
    other = SessionSeal(b"j" * 32, lambda count: b"n" * count)
    assert SEAL.open(other.seal(NEW, CALLER, None, 1.0), CALLER, None, 1.0) is None


def test_the_record_of_a_session_holds_no_session_id(door: Door) -> None:
    session = door.handshake("/mcp/old")
    door.in_session(CALL, session, path="/mcp/old")
    assert session not in json.dumps(door.gw.records())
