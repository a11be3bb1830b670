"""Clients that do not read: what was written for them is let go; those that read slowly lose nothing."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop
from uvicorn.server import ServerState

from agentgw.http.connection import Connection, Limits, respond_at_once

DEADLINE = 1.0
LARGE = 8 * 1024 * 1024
LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [
    asyncio.new_event_loop,
    uvloop.new_event_loop,
]


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """As many bytes as the path says, at once; without end for `/stream`."""
    if scope["path"] != "/stream":
        assert respond_at_once(scope, 200, b"", b"x" * int(scope["path"][1:]))
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while not scope["agentgw.cycle"].disconnected:
        await send({"type": "http.response.body", "body": b"x" * 10_000, "more_body": True})


class Served:
    """A server of `answer`, and what became of its last connection."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.connection: Any = None

    @asynccontextmanager
    async def client(self, path: str) -> AsyncIterator[socket.socket]:
        """A socket with a small window on which `path` was asked for."""
        gone = self.gone

        class Watched(Connection):
            def connection_lost(self, exc: Exception | None) -> None:
                super().connection_lost(exc)
                gone.set()

        loop = asyncio.get_running_loop()
        limits, state = Limits(4096, 10, 10.0, DEADLINE), ServerState()

        def connected() -> Connection:
            connection = self.connection = Watched(answer, limits, state, loop)
            return connection

        server = await loop.create_server(connected, "127.0.0.1", 0)
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            sock.setblocking(False)
            await loop.sock_connect(sock, server.sockets[0].getsockname())
            await loop.sock_sendall(sock, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            yield sock
        server.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(gone.wait(), 5)


def run(
    make_loop: Callable[[], asyncio.AbstractEventLoop], test: Callable[[], Awaitable[None]]
) -> None:
    async def main() -> None:
        await test()

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(main())


@pytest.mark.parametrize("make_loop", LOOPS)
@pytest.mark.parametrize("path", [f"/{LARGE}", "/stream"])
def test_a_client_that_never_reads_is_aborted(
    make_loop: Callable[[], asyncio.AbstractEventLoop], path: str
) -> None:
    async def test() -> None:
        served = Served()
        async with served.client(path):
            await asyncio.wait_for(served.gone.wait(), 10)
            assert served.connection._write_timer is None

    run(make_loop, test)


@pytest.mark.parametrize("make_loop", LOOPS)
def test_a_client_that_reads_slowly_gets_everything(
    make_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def test() -> None:
        served, got = Served(), 0
        loop = asyncio.get_running_loop()
        async with served.client(f"/{LARGE}") as sock:
            while got < LARGE:
                data = await loop.sock_recv(sock, 1_000_000)
                assert data, "the connection was cut"
                got += len(data)
                await asyncio.sleep(0.2 * len(data) / 1_000_000)  # its slowness is the matter
            assert not served.gone.is_set()

    run(make_loop, test)


def test_an_answer_that_left_at_once_arms_no_timer() -> None:
    async def test() -> None:
        served = Served()
        loop = asyncio.get_running_loop()
        async with served.client("/10") as sock:
            assert (await loop.sock_recv(sock, 1000)).endswith(b"x" * 10)
            assert served.connection._write_timer is None

    run(asyncio.new_event_loop, test)
