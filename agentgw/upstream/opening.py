"""The first words with a tool server over HTTP: which era it speaks, and a session where it wants one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator, Mapping
from typing import Protocol

from agentgw.errors import UpstreamFailed
from agentgw.mcp import bridge, handshake, modern
from agentgw.upstream.headers import failure, is_stream, may_pass, session_id, session_lines
from agentgw.upstream.http import UpstreamResponse
from agentgw.upstream.link import Authorise, Reply, ServerInfo
from agentgw.upstream.sessions import Session
from agentgw.upstream.translate import (
    Document,
    check_repeats_nothing,
    documents,
    is_answer,
    parse_large,
)

CONTENT_TYPE, JSON = b"content-type", b"application/json"


class Post(Protocol):
    """Posts a document to the server, with header lines and a token. Raises UpstreamFailed."""

    def __call__(
        self, document: Document, lines: bytes, token: bytes | None, deadline: float, /
    ) -> Awaitable[UpstreamResponse]: ...


class Opening:
    """What we ask a server on our own account. `ids` are those of our requests.

    `client` is the clientInfo we give; `timeout` is in seconds, `max_answer` in bytes.
    """

    def __init__(
        self,
        post: Post,
        client: Mapping[str, str],
        ids: Iterator[int],
        timeout: float,
        max_answer: int,
    ) -> None:
        self._post = post
        self._client = client
        self._ids = ids
        self._timeout = timeout
        self._max_answer = max_answer

    async def discover(self, authorise: Authorise) -> ServerInfo | None:
        """What a 2026-07-28 server says of itself, None where this is none. Raises UpstreamFailed."""
        params = bridge.to_modern_params({}, self._client)
        token = await authorise("server/discover", params)
        headers = modern.request_headers("server/discover", params, {})
        sent_id, response = await self._ask(headers, "server/discover", params, token)
        if response.status not in (200, 400, 404, 405, 406):
            response.abort()
            raise failure(response)
        result = await self._result(response, sent_id) if response.status == 200 else None
        response.abort()
        if result is None or modern.VERSION not in result.get("supportedVersions", ()):
            return None
        return ServerInfo.of("modern", modern.VERSION, result)

    async def initialize(self, authorise: Authorise) -> tuple[ServerInfo, Session]:
        """Open a handshake session. Raises UpstreamFailed."""
        params = handshake.initialize_params(self._client["name"], self._client["version"])
        token = await authorise("initialize", params)
        sent_id, response = await self._ask(b"", "initialize", params, token)
        reply = as_reply(response)
        result = await self._result(response, sent_id)
        response.abort()
        if result is None or not isinstance(result.get("protocolVersion"), str):
            raise UpstreamFailed("it answered initialize with no protocol version")
        session = Session(reply.session, result["protocolVersion"])
        done = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        token = await authorise("notifications/initialized", {})
        acknowledged = await self._post(done, session_lines(session), token, self._deadline())
        acknowledged.abort()
        return ServerInfo.of("handshake", session.version, result), session

    async def _ask(
        self, lines: bytes, method: str, params: Document, token: bytes | None
    ) -> tuple[int, UpstreamResponse]:
        """Send a request; its id, and what comes back."""
        sent_id = next(self._ids)
        document = {"jsonrpc": "2.0", "id": sent_id, "method": method, "params": params}
        return sent_id, await self._post(document, lines, token, self._deadline())

    async def _result(self, response: UpstreamResponse, sent_id: int) -> Document | None:
        """The result of request `sent_id`, or None where it was answered with an error."""
        if response.complete is not None and not is_stream(response):
            document = await parse_large(response.complete)
        else:
            async with asyncio.timeout_at(self._deadline()):
                async for document in documents(aiter(response), self._max_answer):
                    if "method" not in document:
                        break
                else:
                    raise UpstreamFailed("it ended its answer without a response")
        await check_repeats_nothing(document, response.shown)
        if document.get("id") is None and "error" in document:
            return None  # it could not even tell the id of what it was asked
        if not is_answer(document, sent_id):
            response.abort()
            raise UpstreamFailed("it answered with something that is no response to this request")
        result = document.get("result")
        return result if isinstance(result, dict) else None

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._timeout


def as_reply(response: UpstreamResponse) -> Reply:
    """The answer byte for byte, after the checks that keep a bad server from posing as us.

    Raises UpstreamFailed.
    """
    status, body = response.status, response.complete
    found = session_id(response)
    if status == 200 and body is not None and response.headers.get(CONTENT_TYPE) == JSON:
        return Reply(200, body, session=found, shown=response.shown)
    if status == 202 or status == 204:
        response.abort()
        return Reply(202, session=found)
    if status == 200 and is_stream(response):
        stream = aiter(response)
        return Reply(200, None, stream, found, response.abort, response.shown)
    if body is None or not may_pass(status, response):
        response.abort()
        raise failure(response)
    return Reply(status, body, session=found, shown=response.shown)
