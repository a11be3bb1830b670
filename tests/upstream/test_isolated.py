"""A process for each user: how many there are, who makes way, and when they end."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agentgw.core.principal import Caller, Inbound, Subject
from agentgw.errors import UpstreamFailed
from agentgw.mcp.message import Message
from agentgw.upstream.isolated import IsolatedLink
from agentgw.upstream.link import Outbound
from agentgw.upstream.process import ProcessLink
from agentgw.upstream.stdio import StdioServer

pytestmark = pytest.mark.anyio

ECHO = str(Path(__file__).parents[2] / "tools" / "servers" / "stdio_echo.py")
LONG = 3600.0


async def no_token(method: str, params: Any) -> None:
    return None


@asynccontextmanager
async def isolated(most: int = 3, idle_seconds: float = LONG) -> AsyncIterator[IsolatedLink]:
    """The echo server for each subject, told who that is."""

    def make(subject: Subject | None) -> ProcessLink:
        env = {f"WHO_{'nobody' if subject is None else subject.sub}": "1"}
        server = StdioServer(sys.executable, (ECHO,), env, name="echo")
        return ProcessLink("echo", server, client={"name": "t", "version": "1"}, timeout=20)

    link = IsolatedLink("echo", make, most=most, idle_seconds=idle_seconds)
    try:
        yield link
    finally:
        await link.close()
        assert link.processes == 0


def out(user: str | None, tool: str, within: float = 60, **arguments: Any) -> Outbound:
    subject = Subject("acme", user or "", f"acme|{user}")
    inbound = Inbound("acme", None, "sha-256:x")
    caller = Caller(subject, (), frozenset(), frozenset(), 0, inbound, "p")
    params = {"name": tool, "arguments": arguments}
    document = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    message = Message("request", 1, "tools/call", params, document)
    deadline = asyncio.get_running_loop().time() + within
    for_whom = None if user is None else caller
    return Outbound(message, "modern", "2026-07-28", None, no_token, for_whom, deadline)


async def who(link: IsolatedLink, user: str | None, within: float = 60) -> str:
    """Whose process answers a call of `user`."""
    reply = await link.send(out(user, "env", within))
    assert reply.complete is not None
    text = json.loads(reply.complete)["result"]["content"][0]["text"]
    (name,) = [name for name in json.loads(text) if name.startswith("WHO_")]
    return str(name.removeprefix("WHO_"))


@asynccontextmanager
async def at_work(link: IsolatedLink, *users: str) -> AsyncIterator[None]:
    """These users' processes are busy inside."""
    calls = [
        asyncio.create_task(link.send(out(user, "slow", seconds=LONG, within=LONG)))
        for user in users
    ]
    async with asyncio.timeout(60):
        while link.processes < len(users) or not all(map(busy, link._places.values())):
            await asyncio.sleep(0.01)
    try:
        yield
    finally:
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


def busy(place: Any) -> bool:
    return bool(place.link.retire())


async def test_each_user_is_answered_by_a_process_told_who_they_are() -> None:
    async with isolated() as link:
        answers = await asyncio.gather(*(who(link, user) for user in ("a", "b", "a", None)))
        assert answers == ["a", "b", "a", "nobody"]
        assert link.processes == 3


async def test_calls_that_come_at_the_same_time_start_one_process() -> None:
    async with isolated() as link:
        assert set(await asyncio.gather(*(who(link, "a") for _ in range(20)))) == {"a"}
        assert link.processes == 1


async def test_one_that_is_idle_makes_way_and_one_at_work_does_not() -> None:
    async with isolated(most=2) as link, at_work(link, "a"):
        for user in ("b", "c", "d"):
            assert await who(link, user) == f"{user}"
            assert link.processes == 2
        assert ("acme", "a") in link._places


async def test_with_all_at_work_a_newcomer_is_refused_at_once_and_the_others_go_on() -> None:
    async with isolated(most=2) as link, at_work(link, "a", "b"):
        with pytest.raises(UpstreamFailed, match="all its 2 processes are at work for other users"):
            await who(link, "c")
        assert await who(link, "a") == "a"


async def test_an_idle_process_ends_and_the_next_call_starts_another() -> None:
    async with isolated(idle_seconds=0.2) as link:
        assert await who(link, "a") == "a"
        async with asyncio.timeout(60):
            while link.processes:
                await asyncio.sleep(0.01)
        assert await who(link, "a") == "a"


async def test_a_user_who_is_gone_loses_the_process_with_what_it_does() -> None:
    async with isolated() as link:
        assert await who(link, "b") == "b"
        doing = asyncio.create_task(link.send(out("a", "slow", seconds=LONG, within=LONG)))
        async with asyncio.timeout(60):
            while ("acme", "a") not in link._places or not busy(link._places["acme", "a"]):
                await asyncio.sleep(0.01)
        link.forget(lambda subject: subject.sub == "a")
        with pytest.raises(UpstreamFailed):
            await doing
        assert list(link._places) == [("acme", "b")]


async def test_a_closed_one_starts_nothing_more() -> None:
    async with isolated() as link:
        await link.close()
        with pytest.raises(UpstreamFailed, match="was stopped by the gateway"):
            await who(link, "a")


async def test_what_the_server_is_is_asked_once_of_a_process_that_is_nobodys() -> None:
    async with isolated() as link:
        info = await link.info(no_token)
        assert list(link._places) == [None]
        assert info is await link.info(no_token)
        assert link.describe() is None
