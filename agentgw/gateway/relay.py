"""Answers on their way back: passed on as they come, while a copy is read for the record."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import orjson

from agentgw.core import refusal
from agentgw.core.refusal import Refusal
from agentgw.errors import UpstreamFailed
from agentgw.gateway.asked import is_open_ended
from agentgw.gateway.incoming import Incoming, Server
from agentgw.gateway.journal import Entry, Journal
from agentgw.gateway.problems import error_body
from agentgw.gateway.streams import OpenStreams
from agentgw.mcp.message import RequestId
from agentgw.mcp.sse import EventReader, event
from agentgw.upstream.link import Reply

_LARGE = 512 * 1024
"""Bytes from which an answer is parsed in a thread, so that no other call waits over 5 ms for it."""

_LIST_CHANGED = "notifications/tools/list_changed"


async def check_response(body: bytes, request_id: RequestId | None) -> dict[str, Any]:
    """Parse a whole answer. Raises UpstreamFailed unless it is the response to that very request."""
    try:
        document = _parse(body) if len(body) < _LARGE else await asyncio.to_thread(_parse, body)
    except (ValueError, RecursionError):
        raise UpstreamFailed("it sent something that is not JSON") from None
    if (
        not isinstance(document, dict)
        or document.get("id") != request_id
        or type(document["id"]) is not type(request_id)
        or ("result" in document) == ("error" in document)
    ):
        raise UpstreamFailed("it answered with something that is no response to this request")
    return document


def _parse(body: bytes) -> Any:
    """JSON, lone surrogates included, which the fast parser refuses."""
    try:
        return orjson.loads(body)
    except ValueError:
        if b"\\u" not in body:
            raise
        return json.loads(body, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def is_error(document: dict[str, Any]) -> bool:
    """Whether a response says that the request failed, by the protocol's word or the tool's own."""
    result = document.get("result")
    return "error" in document or (isinstance(result, dict) and result.get("isError") is True)


class Watch:
    """Reads a copy of a stream: the final response to `request_id`, how much passed, what changed."""

    def __init__(
        self, request_id: RequestId | None, limit: int, on_list_changed: Callable[[], None]
    ) -> None:
        self._request_id = request_id
        self._reader = EventReader(limit)
        self._on_list_changed = on_list_changed
        self.final: dict[str, Any] | None = None
        self.result: bytes | None = None
        self.size = 0
        self.progress = 0

    def feed(self, chunk: bytes) -> None:
        """Look at what is being passed on. Raises UpstreamFailed for an event over the limit."""
        self.size += len(chunk)
        try:
            events = self._reader.feed(chunk)
        except ValueError:
            raise UpstreamFailed("it sent an event larger than an answer may be") from None
        for data in events:
            self._see(data)

    def _see(self, data: bytes) -> None:
        try:
            document = _parse(data)
        except (ValueError, RecursionError):
            raise UpstreamFailed("it sent an event that is not JSON") from None
        if not isinstance(document, dict):
            raise UpstreamFailed("it sent an event that is no JSON-RPC message")
        method = document.get("method")
        if method == "notifications/progress":
            self.progress += 1
        elif method == _LIST_CHANGED:
            self._on_list_changed()
        elif method is None and self._request_id is not None:
            if document.get("id") == self._request_id:
                self.final, self.result = document, data


async def relay_stream(
    incoming: Incoming,
    server: Server,
    reply: Reply,
    entry: Entry,
    journal: Journal,
    streams: OpenStreams,
    max_answer: int,
    clock: Callable[[], float],
    refused: Callable[[Refusal], bytes],
) -> AsyncIterator[bytes]:
    """Pass a stream on; its outcome is recorded however it ends.

    Ends with an error event where the server fell silent, broke off, or the right to call ended.
    `refused` renders that error.
    """
    message = incoming.message
    open_ended = is_open_ended(message)
    request_id = message.id if message.kind == "request" else None
    watch = Watch(request_id, max_answer, server.catalogue.expire)
    lasts = incoming.caller.exp - clock() if open_ended else server.timeout
    ends = asyncio.get_running_loop().time() + lasts
    own = streams.enter(incoming.caller, open_ended)
    failure: str | None = None
    assert reply.stream is not None
    try:
        while watch.final is None:
            async with asyncio.timeout_at(ends):
                chunk = await anext(reply.stream, None)
            if chunk is None:
                break
            watch.feed(chunk)
            yield chunk
        if watch.final is None and not open_ended:
            failure = "it ended its answer without a response"
    except TimeoutError:
        failure = None if open_ended else f"no answer within {server.timeout:g} s"
    except UpstreamFailed as error:
        failure = error.reason
    except GeneratorExit:
        failure = "cancelled" if own.cut is None else own.cut.reason
        raise
    except asyncio.CancelledError:
        failure = "cancelled" if own.cut is None else own.cut.reason
        if own.cut is None:
            raise
        own.task.uncancel()
    finally:
        streams.leave(own)
        reply.abort()
        if isinstance(reply.stream, AsyncGenerator):
            await reply.stream.aclose()
        _record(journal, entry, watch, failure)
    if failure is not None and request_id is not None:
        yield refused(own.cut or refusal.upstream_failed(server.name, failure))


def _record(journal: Journal, entry: Entry, watch: Watch, failure: str | None) -> None:
    if watch.final is not None:
        outcome = "error" if "error" in watch.final else "ok"
        failed: bool | None = is_error(watch.final)
    else:
        outcome = {None: "ok", "cancelled": "cancelled"}.get(failure, "failed")
        failed = None
    journal.close(
        entry,
        outcome,
        status=200,
        is_error=failed,
        result=watch.result,
        size=watch.size,
        error=failure if watch.final is None else None,
        progress=watch.progress,
    )


def error_event(request_id: RequestId | None, code: int, message: str, data: object) -> bytes:
    """A JSON-RPC error as the last event of a stream."""
    return event(error_body(request_id, code, message, data))
