"""Open streams and the right to have them."""

from __future__ import annotations

import asyncio

import pytest

from agentgw.core.principal import Caller, Hop, Inbound, Subject
from agentgw.core.refusal import Refusal, revoked
from agentgw.gateway.streams import OpenStreams

pytestmark = pytest.mark.anyio


def caller(user: str) -> Caller:
    chain = (Hop("https://gw.example/a2a/planner", "planner", "client-auth"),)
    subject = Subject("acme", user, f"acme|{user}")
    inbound = Inbound("https://idp.example", user, "sha-256:x")
    return Caller(subject, chain, frozenset(), frozenset(), 0, inbound, "planner")


async def test_a_stream_whose_right_ended_while_its_server_took_its_time_is_cut_at_once() -> None:
    lost: set[Caller] = set()

    def why(one: Caller, account: str | None) -> Refusal | None:
        return revoked("the token") if one in lost else None

    streams = OpenStreams(10)
    streams.cut(why)
    late, spared = caller("late"), caller("spared")
    lost.add(late)

    async def listen(one: Caller) -> str | None:
        stream = streams.enter(one, open_ended=True)
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            pass
        finally:
            streams.leave(stream)
        return None if stream.cut is None else stream.cut.reason

    assert await asyncio.create_task(listen(spared)) is None
    assert await asyncio.create_task(listen(late)) == "revoked"
