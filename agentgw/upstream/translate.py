"""Answers that cannot be passed on byte for byte: another era, another id, another transport."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from agentgw.errors import UpstreamFailed
from agentgw.mcp import bridge
from agentgw.mcp.message import LARGE_ANSWER, METHOD_NOT_FOUND, RequestId, encode
from agentgw.mcp.spelling import REPEATED
from agentgw.mcp.sse import EventReader, data_of, event
from agentgw.upstream.link import Era, Reply, ServerInfo

Document = dict[str, Any]


class LargeDocument(dict[str, Any]):
    """A message so large that whatever is done to all of it is done in a thread."""


@dataclass(frozen=True, slots=True)
class Translation:
    """How to give a server's answer to the agent.

    `sent_id` is the id we used, `agent_id` the agent's. `refuse` is told of each request the server makes
    of us, which we can never grant: we declared no capability for one.
    """

    method: str
    sent_id: RequestId
    agent_id: RequestId
    agent_era: Era
    info: ServerInfo
    refuse: Callable[[Document], None] = lambda _: None

    def final(self, document: Document) -> Document:
        """The agent's form of the server's final response."""
        out = {**document, "id": self.agent_id}
        result, error = document.get("result"), document.get("error")
        if self.agent_era == self.info.era:
            return out
        if isinstance(result, dict):
            if self.agent_era == "modern":
                out["result"] = bridge.to_modern_result(self.method, result, self.info.server)
            else:
                out["result"] = bridge.to_handshake_result(result)
        elif isinstance(error, dict) and self.agent_era == "modern":
            out["error"] = bridge.to_modern_error(error)
        return out


async def translate(messages: AsyncIterator[Document], how: Translation) -> Reply:
    """Give back `messages` as the agent expects them: plain JSON if the answer comes first, else a stream."""
    iterator = _relevant(messages, how)
    first = await anext(iterator, None)
    if first is None:
        raise UpstreamFailed("it ended its answer without a response")
    if "method" not in first:
        return Reply(200, complete=await _encoded(first))

    async def stream() -> AsyncIterator[bytes]:
        yield event(await _encoded(first))
        async for message in iterator:
            yield event(await _encoded(message))

    return Reply(200, stream=stream())


async def _relevant(messages: AsyncIterator[Document], how: Translation) -> AsyncIterator[Document]:
    async for message in messages:
        if "method" in message:
            if "id" in message:
                how.refuse(message)
            else:
                yield message
            continue
        if not is_answer(message, how.sent_id):
            raise UpstreamFailed("it answered with something that is no response to this request")
        final = how.final(message)
        if isinstance(message, LargeDocument):
            message.clear()
            final = LargeDocument(final)
        yield final
        return


def is_answer(message: Document, sent_id: RequestId) -> bool:
    """Whether this is a response to request `sent_id`; an id that only equals it (1.0, true) is not it."""
    return (
        message.get("id") == sent_id
        and type(message["id"]) is type(sent_id)
        and ("result" in message) != ("error" in message)
    )


async def check_repeats_nothing(document: Document, shown: tuple[bytes, ...]) -> None:
    """Refuse an answer that holds a secret its server was shown. Raises UpstreamFailed."""
    if not shown:
        return
    large = isinstance(document, LargeDocument)
    written = await asyncio.to_thread(encode, document) if large else encode(document)
    if any(secret in written for secret in shown):
        raise UpstreamFailed(REPEATED)


async def _encoded(document: Document) -> bytes:
    if isinstance(document, LargeDocument):
        return await asyncio.to_thread(_spend, document)
    return encode(document)


def _spend(document: LargeDocument) -> bytes:
    """Write a message that nobody needs any more: to free it takes its time as well."""
    written = encode(document)
    document.clear()
    return written


async def documents(chunks: AsyncIterator[bytes], limit: int) -> AsyncIterator[Document]:
    """The JSON-RPC messages of an event stream. Raises UpstreamFailed on anything else in it."""
    reader = EventReader(limit)
    async for chunk in chunks:
        try:
            blocks = list(reader.blocks(chunk))
        except ValueError:
            raise UpstreamFailed(f"it sent an event of more than {limit} bytes") from None
        for block in blocks:
            large = len(block) >= LARGE_ANSWER
            data = await asyncio.to_thread(data_of, block) if large else data_of(block)
            if data:  # an event without data only carries its id
                yield await parse_large(data)


def cancelled(request_id: RequestId) -> Document:
    """The notification that nobody waits for a request any more."""
    params = {"requestId": request_id, "reason": "the agent gave up"}
    return {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}


def declined(request: Document) -> Document:
    """Our answer to a request of a server's: we are there, and offer nothing."""
    error = {"code": METHOD_NOT_FOUND, "message": "this client offers no such method"}
    body = {"result": {}} if request.get("method") == "ping" else {"error": error}
    return {"jsonrpc": "2.0", "id": request["id"], **body}


async def one(document: Document) -> AsyncIterator[Document]:
    """A stream of a single message."""
    yield document


async def parse_large(data: bytes) -> Document:
    """`parse_document`, in a thread where it would hold up other calls."""
    if len(data) < LARGE_ANSWER:
        return parse_document(data)
    return LargeDocument(await asyncio.to_thread(parse_document, data))


def parse_document(data: bytes) -> Document:
    """One JSON-RPC object of a server, integers of any size kept. Raises UpstreamFailed."""
    try:
        document = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise UpstreamFailed("it sent something that is not JSON") from None
    if not isinstance(document, dict):
        raise UpstreamFailed("it sent JSON that is no JSON-RPC message")
    return document


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
