"""The records come out as the published story shows them, to the byte."""

from __future__ import annotations

import hmac
import json
import uuid

from hypothesis import given
from hypothesis import strategies as st

from agentgw.core.merkle import leaf_hash
from agentgw.core.principal import Caller, Hop, Inbound, Subject
from agentgw.core.record import (
    commit,
    decision_record,
    event_record,
    outcome_record,
    rfc3339_ms,
    uuid7,
)

PARAMS_DIGEST = "sha-256:UqtvRHT7dED66ZKDi6Uju9v0BfJ_zCUiRboIHAPklro"
COMMITTED = commit(hmac.digest(b"k" * 32, PARAMS_DIGEST.encode(), "sha256"))
EVENT = "019ab6f2-7c3d-7b22-9c01-6f0a5d3e2b10"
CALLER = Caller(
    subject=Subject("acme", "alice", "acme|alice"),
    chain=(
        Hop("https://gw.example.com/a2a/coder", "coder", "exchange"),
        Hop("https://gw.example.com/a2a/planner", "planner", "client-auth"),
    ),
    scopes=frozenset({"tickets.write"}),
    resources=frozenset({"https://gw.example.com/mcp"}),
    exp=1795400300,
    inbound=Inbound("https://gw.example.com", "j-coder", "sha-256:…"),
    presenter="https://gw.example.com/a2a/coder",
    txn="t-01JD9YQK6T3E8V",
)


def decision_of_the_story(caller: Caller = CALLER) -> dict[str, object]:
    return decision_record(
        id="019ab6f2-7c3e-7d10-8a55-2f1c9b7e4401",
        event_id=EVENT,
        now=1795412805.120,
        txn="t-01JD9YQK6T3E8V",
        trace="4bf92f3577b34da6a3ce929d0e0e4736",
        caller=caller,
        client="mcp-python/2.3.0",
        source="127.0.0.1",
        server="tickets",
        method="tools/call",
        name="close_ticket",
        tool_digest="sha-256:tbXUFP2tTa4BZmZuDVtXTVwlHx5R8vyP5p0QCeyX32g",
        params_commit=COMMITTED,
        issued={
            "jti": "j-call-9f2",
            "aud": "https://tickets.example.com/mcp",
            "scope": "tickets.write",
            "exp": 1795400065,
        },
        decision="allow",
        reason=None,
        rule="g3",
        policy_version="p-5d1e",
        era="2026-07-28",
        chain_assurance="token",
    )


def line(record: dict[str, object]) -> bytes:
    front = {"v": 1, "log": "gw-1", "seq": 17}
    return json.dumps(front | record, ensure_ascii=False, separators=(",", ":")).encode()


def test_the_decision_of_the_story_has_the_published_leaf() -> None:
    leaf = leaf_hash(line(decision_of_the_story()))
    assert leaf.hex() == "8d7a988f6f79f931a4ec3e36c02311e0aeae059e8620599197a479eef46c1cee"


def test_notes_of_the_caller_stand_last_and_only_where_there_are_any() -> None:
    noted = Caller(
        CALLER.subject, CALLER.chain, CALLER.scopes, CALLER.resources, CALLER.exp,
        CALLER.inbound, CALLER.presenter, notes=("an act was dropped",),
    )  # fmt: skip
    plain, record = decision_of_the_story(), decision_of_the_story(noted)
    assert record == plain | {"notes": ["an act was dropped"]}
    assert list(record) == [*plain, "notes"]


def test_an_event_has_the_fields_of_a_decision_in_its_order() -> None:
    event = event_record(
        id=EVENT, event_id=EVENT, now=0, method="oauth/token", subject=CALLER.subject,
        chain=CALLER.chain, detail={"grant_type": "token-exchange"},
    )  # fmt: skip
    assert list(event) == [*decision_of_the_story(), "detail"]
    assert (event["phase"], event["server"]) == ("decision", None)


def test_an_outcome_has_its_fields_in_order_and_counts_progress_where_there_was_some() -> None:
    def outcome(progress: int) -> dict[str, object]:
        return outcome_record(
            id=EVENT, event_id=EVENT, now=0.0004, txn="t", server="tickets", method="tools/call",
            name="close_ticket", outcome="ok", status=200, is_error=False,
            result_commit=COMMITTED, bytes=12, ms=1.23456, progress=progress,
        )  # fmt: skip

    fields = (
        "id event_id phase time txn server method name outcome status is_error "
        "result_commit bytes ms error"
    )
    assert list(outcome(0)) == fields.split()
    assert outcome(0)["ms"] == 1.235
    assert list(outcome(3)) == [*fields.split(), "progress"]


def test_times_are_utc_with_milliseconds_rounded() -> None:
    assert rfc3339_ms(1795412805.120) == "2026-11-23T05:46:45.120Z"
    assert rfc3339_ms(0.9996) == "1970-01-01T00:00:01.000Z"


@given(st.integers(0, 2**48 - 1), st.binary(min_size=10, max_size=10))
def test_ids_are_version_7_uuids_that_sort_by_time(ms: int, random: bytes) -> None:
    text = uuid7(ms, random)
    value = uuid.UUID(text)
    assert (str(value), value.version, value.variant) == (text, 7, uuid.RFC_4122)
    assert value.int >> 80 == ms
    assert text[:13] <= uuid7(min(ms + 1, 2**48 - 1), bytes(10))[:13]
