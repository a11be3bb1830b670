"""What the verifier asks of our own tokens never holds up the event loop."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from sqlalchemy import event

from agentgw.app.own_tokens import OwnTokens
from agentgw.core.principal import Hop, Issued, Subject
from agentgw.registry.ledger import LedgerQueue
from agentgw.registry.schema import open_database
from agentgw.sts.keys import KeyRing

pytestmark = pytest.mark.anyio

ISSUER = "https://gw.example.com"
ISSUED = Issued(
    jti="j-1",
    kind="gateway",
    parent=None,
    subject=Subject("acme", "alice", "acme|alice"),
    groups=frozenset(),
    chain=(Hop(f"{ISSUER}/a2a/coder", "coder", "exchange"),),
    audience=f"{ISSUER}/mcp",
    scopes=frozenset(),
    txn="t-1",
    iat=100,
    exp=400,
    presenter=f"{ISSUER}/a2a/coder",
)


async def test_the_ledger_is_read_in_a_thread_of_its_own(tmp_path: Path) -> None:
    engine = open_database(tmp_path / "state.db")
    entries = LedgerQueue(engine)
    await entries.record(ISSUED)
    readers: list[int] = []
    event.listen(engine, "before_cursor_execute", lambda *_: readers.append(threading.get_ident()))
    own = OwnTokens(ISSUER, KeyRing(tmp_path / "state"), entries)
    assert await own.issued("j-1") == ISSUED
    assert await own.issued("j-2") is None
    assert readers and threading.get_ident() not in readers
    await entries.close()
