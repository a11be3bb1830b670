"""Threat: a URL whose host's name is answered for late or never, named again and again.

Resolving takes a thread, which cannot be called back; those that read the gateway's own state must not be
among them.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.guarded import guarded

pytestmark = pytest.mark.anyio


@pytest.fixture
def silence(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """No name is answered for; the names that were asked. It ends with the test."""
    asked: list[str] = []
    over = threading.Event()

    def never(host: str, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        over.wait(60)
        raise socket.gaierror("nobody answers")

    monkeypatch.setattr(socket, "getaddrinfo", never)
    yield asked
    over.set()


async def test_names_that_nobody_answers_for_hold_up_nothing_else(silence: list[str]) -> None:
    async with guarded() as client:
        asking = [
            asyncio.create_task(client.get(f"https://slow-{number}.example/client.json"))
            for number in range(30)
        ]
        async with asyncio.timeout(10):
            while len(silence) < 30:
                await asyncio.sleep(0)
            assert await asyncio.to_thread(lambda: "the state") == "the state"
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
