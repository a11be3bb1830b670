"""The first words with a tool server: only the answer to what was asked counts."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from agentgw.errors import UpstreamFailed
from agentgw.upstream.http import HttpOrigin
from agentgw.upstream.link import ServerInfo
from agentgw.upstream.streamable import StreamableHttp

pytestmark = pytest.mark.anyio


async def no_token(method: str, params: Mapping[str, Any]) -> bytes | None:
    return None


async def asked(url: str) -> ServerInfo:
    origin = HttpOrigin(url)
    client = {"name": "tests", "version": "1"}
    link = StreamableHttp("s", origin.target, origin, client=client, max_answer=1 << 20, timeout=5)
    try:
        async with asyncio.timeout(10):
            return await link.info(no_token)
    finally:
        await link.close()


@pytest.mark.parametrize("method", ["server/discover", "initialize"])
async def test_the_answer_to_another_request_opens_nothing(faulty_url: str, method: str) -> None:
    era = "modern" if method == "server/discover" else "handshake"
    assert (await asked(f"{faulty_url}ok?era={era}")).era == era
    with pytest.raises(UpstreamFailed, match="no response to this request"):
        await asked(f"{faulty_url}wrong-id?on={method}&era={era}")
