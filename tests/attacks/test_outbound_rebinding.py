"""A name that resolves to a public address when it is checked, and to this host when it is connected to."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import httpx2
import pytest

from agentgw.core.addresses import Address
from tests.guarded import guarded
from tests.listener import listening

pytestmark = pytest.mark.anyio


class Rebinding:
    """Answers with each of `answers` once, then with the last for ever."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self, host: str, port: int) -> list[Address]:
        self.asked += 1
        text = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [ip_address(text)]


async def test_the_address_that_was_judged_is_the_one_connected_to() -> None:
    async with listening() as listener:
        # 127.0.0.2 is allowed here, so that the first answer passes; nobody answers there.
        resolver = Rebinding("127.0.0.2", "127.0.0.1")
        allowed = ip_network("127.0.0.2/32")
        client = guarded(allowed, resolve=resolver)
        async with client:
            with pytest.raises(httpx2.ConnectError):
                await client.get(f"http://rebind.example:{listener.port}/")
        assert (resolver.asked, listener.hits) == (1, [])


async def test_each_connection_is_judged_anew() -> None:
    async with listening() as listener:
        resolver = Rebinding("127.0.0.1", "127.0.0.2")
        allowed = ip_network("127.0.0.1/32")
        client = guarded(allowed, resolve=resolver)
        async with client:
            url = f"http://rebind.example:{listener.port}/"
            assert (await client.get(url)).status_code == 200
            with pytest.raises(httpx2.ConnectError, match="refused"):
                await client.get(url)
        assert (resolver.asked, len(listener.hits)) == (2, 1)


async def test_the_host_it_was_asked_for_is_told_to_the_server() -> None:
    async with listening() as listener:
        client = guarded(ip_network("127.0.0.0/8"), resolve=Rebinding("127.0.0.1"))
        async with client:
            await client.get(f"http://idp.example:{listener.port}/")
        assert f"idp.example:{listener.port}".encode() in listener.hits[0].lower()
