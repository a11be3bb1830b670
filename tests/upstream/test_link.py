"""What goes to a tool server: in whose session."""

from __future__ import annotations

from dataclasses import replace

from agentgw.core.principal import Caller, Hop, Inbound, Subject
from agentgw.mcp.message import Message
from agentgw.upstream.link import Outbound
from tests.upstream.test_process import no_token

CODER, PLANNER = (Hop(f"https://gw/a2a/{name}", name, "exchange") for name in ("coder", "planner"))
ALICE = Caller(
    Subject("acme", "alice", "acme|alice"),
    (CODER, PLANNER),
    frozenset(),
    frozenset(),
    0,
    Inbound("acme", "j", "sha-256:x"),
    CODER.id,
)
OUT = Outbound(
    Message("request", 1, "tools/list", {}, {}), "modern", "2026-07-28", None, no_token, ALICE, 0.0
)


def test_a_session_is_one_users_one_chains_and_one_accounts() -> None:
    bob = replace(ALICE, subject=Subject("acme", "bob", "acme|bob"))
    alone = replace(ALICE, chain=(CODER,))
    others = [
        OUT._replace(caller=None),
        OUT._replace(caller=bob),
        OUT._replace(caller=alone),
        OUT._replace(account="one"),
        OUT._replace(account="another"),
    ]
    assert len({each.binding for each in [OUT, *others]}) == 6


def test_another_token_of_the_same_account_goes_on_in_the_session() -> None:
    one = OUT._replace(token=b"at-1", account="one")
    assert one._replace(token=b"at-2").binding == one.binding
