"""Answers on their way back: passed on event by event, read for what may not pass and for the record."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, NamedTuple

import orjson

from agentgw.core import refusal
from agentgw.core.canonical import digest
from agentgw.core.refusal import Refusal
from agentgw.core.target import FILTERED_LISTS
from agentgw.errors import UpstreamFailed
from agentgw.gateway.asked import is_open_ended
from agentgw.gateway.incoming import OPEN_STREAM, Incoming, Server
from agentgw.gateway.journal import Entry, Journal
from agentgw.gateway.problems import error_body
from agentgw.gateway.streams import OpenStreams
from agentgw.mcp.message import LARGE_ANSWER, RequestId
from agentgw.mcp.spelling import REPEATED, holds
from agentgw.mcp.sse import EventReader, data_of, event
from agentgw.upstream.link import Reply

_LIST_CHANGED = "notifications/tools/list_changed"
_LISTS = frozenset({"tools", *(member for _, member, _ in FILTERED_LISTS.values())})
_NO_RESPONSE = "it answered with something that is no response to this request"


class Verdict(NamedTuple):
    """What the record keeps of a final response: the digest of its bytes, and how the call went.

    `is_error` says that the request failed, by the protocol's word (`error`) or the tool's own.
    """

    error: bool
    is_error: bool
    digest: str


class _Heard(NamedTuple):
    """What one event of a stream is: a message of the server's, a response, or nothing (a comment)."""

    method: str | None = None
    asks: bool = False
    verdict: Verdict | None = None
    passes: bool = True


async def check_response(
    body: bytes, request_id: RequestId | None, shown: tuple[bytes, ...]
) -> Verdict:
    """Look at a whole answer. Raises UpstreamFailed unless it is the response to that very request, and
    holds nothing of what its server was `shown`."""
    if len(body) < LARGE_ANSWER:
        return _judge(body, request_id, shown)
    return await asyncio.to_thread(_judge, body, request_id, shown)


def _judge(body: bytes, request_id: RequestId | None, shown: tuple[bytes, ...]) -> Verdict:
    try:
        document = _parse(body)
    except (ValueError, RecursionError):
        raise UpstreamFailed("it sent something that is not JSON") from None
    if not isinstance(document, dict) or not _answers(document, request_id):
        raise UpstreamFailed(_NO_RESPONSE)
    if shown and holds(shown, body, document):
        raise UpstreamFailed(REPEATED)
    return _verdict(document, body)


def _verdict(document: dict[str, Any], body: bytes) -> Verdict:
    result = document.get("result")
    error = "error" in document
    failed = error or (isinstance(result, dict) and result.get("isError") is True)
    return Verdict(error, failed, digest(body))


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


class Watch:
    """Stands in a stream's way: whole events that belong there pass, as the server wrote them.

    `incoming` is what the stream answers, `shown` what its server was shown for it. Keeps what the record
    needs: the final response, how much passed; `fault` says why nothing more may.
    """

    def __init__(
        self,
        incoming: Incoming,
        limit: int,
        on_list_changed: Callable[[], None],
        shown: tuple[bytes, ...],
    ) -> None:
        session = incoming.session
        self._request_id = incoming.message.id
        self._is_open_stream = incoming.message.method == OPEN_STREAM
        self._may_ask = incoming.era == "handshake" and session is not None and session.relayed
        self._reader = EventReader(limit)
        self._on_list_changed = on_list_changed
        self._shown = shown
        self.final: Verdict | None = None
        self.fault: str | None = None
        self.size = 0
        self.progress = 0

    async def take(self, chunk: bytes) -> bytes:
        """What `chunk` completes and may pass on; nothing after the final response or a fault."""
        passed: list[bytes] = []
        try:
            for block in self._reader.blocks(chunk):
                if await self._admits(block):
                    passed.append(block)
                if self.final is not None:
                    # A reader may wait for the line feed of a CRLF that it will never see.
                    passed += [b"\n"] if block.endswith(b"\r") else []
                    break
        except ValueError:
            self.fault = "it sent an event larger than an answer may be"
        except UpstreamFailed as error:
            self.fault = error.reason
        whole = b"".join(passed)
        self.size += len(whole)
        return whole

    def check(self) -> None:
        """Raises UpstreamFailed where the server sent what must not pass."""
        if self.fault is not None:
            raise UpstreamFailed(self.fault)

    async def _admits(self, block: bytes) -> bool:
        """Whether an event passes. Raises UpstreamFailed for one that has no place in this stream."""
        if len(block) < LARGE_ANSWER:
            heard = self._listen(block)
        else:
            heard = await asyncio.to_thread(self._listen, block)
        if heard.method is not None:
            self._hear(heard.method, heard.asks)
        self.final = heard.verdict
        return heard.passes

    def _listen(self, block: bytes) -> _Heard:
        """What an event is; changes nothing here."""
        data = data_of(block)
        try:
            document = _parse(data) if data else None
        except (ValueError, RecursionError):
            raise UpstreamFailed("it sent an event that is not JSON") from None
        if self._shown and holds(self._shown, block, document):
            raise UpstreamFailed(REPEATED)
        if not data:
            return _Heard()
        if not isinstance(document, dict):
            raise UpstreamFailed("it sent an event that is no JSON-RPC message")
        if "method" in document:
            method = document["method"]
            if not isinstance(method, str) or "result" in document or "error" in document:
                raise UpstreamFailed("it sent an event that is no JSON-RPC message")
            return _Heard(method, "id" in document)
        if self._is_open_stream:
            return _Heard(passes=not _is_list(document))
        if not _answers(document, self._request_id):
            raise UpstreamFailed(_NO_RESPONSE)
        return _Heard(verdict=_verdict(document, data))

    def _hear(self, method: str, asks: bool) -> None:
        if asks and not self._may_ask:
            raise UpstreamFailed("it sent a request where none can be answered")
        if method == "notifications/progress":
            self.progress += 1
        elif method == _LIST_CHANGED:
            self._on_list_changed()


def _answers(document: dict[str, Any], request_id: RequestId | None) -> bool:
    """Whether this is a response to that very request: an id that only equals it (1.0, true) is not it."""
    return (
        request_id is not None
        and document.get("id") == request_id
        and type(document["id"]) is type(request_id)
        and ("result" in document) != ("error" in document)
    )


def _is_list(document: dict[str, Any]) -> bool:
    """Whether a response, replayed after a break, shows what its own answer showed filtered."""
    result = document.get("result")
    return isinstance(result, dict) and not _LISTS.isdisjoint(result)


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
    account: str | None = None,
) -> AsyncIterator[bytes]:
    """Pass a stream on; its outcome is recorded however it ends.

    Ends with an error event where the server fell silent, broke off, sent what has no place in this
    stream, or the right to call ended.
    `refused` renders that error; `account` names the connected account that is used, if one is.
    """
    message = incoming.message
    open_ended = is_open_ended(message)
    request_id = message.id if message.kind == "request" else None
    watch = Watch(incoming, max_answer, server.catalogue.expire, reply.shown)
    lasts = incoming.caller.exp - clock() if open_ended else server.timeout
    ends = asyncio.get_running_loop().time() + lasts
    own = streams.enter(incoming.caller, open_ended, account)
    failure: str | None = None
    assert reply.stream is not None
    try:
        while watch.final is None:
            async with asyncio.timeout_at(ends):
                chunk = await anext(reply.stream, None)
            if chunk is None:
                break
            passed = await watch.take(chunk)
            if passed:
                yield passed
            watch.check()
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
        outcome = "error" if watch.final.error else "ok"
        failed: bool | None = watch.final.is_error
    else:
        outcome = {None: "ok", "cancelled": "cancelled"}.get(failure, "failed")
        failed = None
    journal.close(
        entry,
        outcome,
        status=200,
        is_error=failed,
        result=None if watch.final is None else watch.final.digest,
        size=watch.size,
        error=failure if watch.final is None else None,
        progress=watch.progress,
    )


def error_event(request_id: RequestId | None, code: int, message: str, data: object) -> bytes:
    """A JSON-RPC error as the last event of a stream."""
    return event(error_body(request_id, code, message, data))
