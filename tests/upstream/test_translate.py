"""Answers in translation: only the response to the very request becomes the agent's answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from agentgw.errors import UpstreamFailed
from agentgw.upstream.link import ServerInfo
from agentgw.upstream.translate import Document, Translation, documents, translate

pytestmark = pytest.mark.anyio

HOW = Translation("tools/call", 1, "mine", "handshake", ServerInfo.of("handshake", "v", {}))


async def each(*items: Any) -> AsyncIterator[Any]:
    for item in items:
        yield item


@pytest.mark.parametrize(
    "forged",
    [{"id": True, "result": {}}, {"id": 1.0, "result": {}}, {"id": 2, "result": {}}, {"result": {}},
     {"id": 1}, {"id": 1, "result": {}, "error": {}}],
)  # fmt: skip
async def test_anything_but_the_response_to_this_request_fails_it(forged: Document) -> None:
    with pytest.raises(UpstreamFailed, match="no response to this request"):
        await translate(each(forged, {"id": 1, "result": {}}), HOW)


async def test_the_response_gets_the_agents_id() -> None:
    reply = await translate(each({"id": 1, "result": {}}), HOW)
    assert reply.complete == b'{"id":"mine","result":{}}'


async def test_an_event_without_data_is_no_message() -> None:
    chunks = each(b"id: 1\ndata:\n\n", b'data: {"id":1}\n\n')
    assert [document async for document in documents(chunks, 1000)] == [{"id": 1}]
