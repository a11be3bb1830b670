"""A tool server over streamable HTTP, of either era."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Literal

from agentgw.errors import UpstreamFailed
from agentgw.mcp import bridge, modern
from agentgw.mcp.message import LARGE_REQUEST, Message, encode
from agentgw.mcp.spelling import END, SHORTEST_SECRET
from agentgw.upstream.headers import bearer_line, is_stream, session_line, session_lines
from agentgw.upstream.http import HttpOrigin, UpstreamResponse
from agentgw.upstream.link import Authorise, Outbound, Reply, ServerInfo
from agentgw.upstream.opening import Opening, as_reply
from agentgw.upstream.sessions import Session, SessionPool
from agentgw.upstream.translate import (
    Document,
    Translation,
    cancelled,
    declined,
    documents,
    one,
    parse_large,
    translate,
)

_BASE_HEADERS = (
    b"Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"
    b"User-Agent: agentgw\r\n"
)
_OWN_BINDING = ""
"""The binding of what we ask on our own account, as `Outbound.binding` gives it without a caller."""
_REPROBE_SECONDS = 30.0


class StreamableHttp:
    """Implements Link for one URL.

    `extra_headers` are ready header lines of the operator (`auth.mode: header`), `secrets` what of them no
    answer may hold. `client` is the name and
    version we give as clientInfo where the agent gave none that the server may see. `timeout` bounds, in
    seconds, what we ask on our own account. `credentials` gives the header lines for token and method.
    """

    relays_sessions = True

    def __init__(
        self,
        name: str,
        target: bytes,
        origin: HttpOrigin,
        *,
        era: Literal["auto", "modern", "handshake"] = "auto",
        extra_headers: bytes = b"",
        secrets: tuple[bytes, ...] = (),
        client: Mapping[str, str],
        max_answer: int,
        timeout: float,
        credentials: Callable[[bytes | None, bytes], bytes] = bearer_line,
    ) -> None:
        self._name = name
        self._target = target
        self._origin = origin
        self._era = era
        self._headers = _BASE_HEADERS + extra_headers
        self._secrets = secrets
        self._client = client
        self._max_answer = max_answer
        self._timeout = timeout
        self._credentials = credentials
        self._info: ServerInfo | None = None
        self._probed = 0.0
        self._probing = asyncio.Lock()
        self._sessions = SessionPool()
        self._ids = itertools.count(1)
        self._opening = Opening(self._post, client, self._ids, timeout, max_answer)
        self._failure: str | None = None
        self._background: set[asyncio.Task[None]] = set()

    @property
    def name(self) -> str:
        return self._name

    def describe(self) -> str | None:
        return self._failure

    def retire(self) -> bool:
        self._origin.retire()
        return self._origin.connections > 0

    async def close(self) -> None:
        for task in self._background:
            task.cancel()
        await self._origin.close()

    async def info(self, authorise: Authorise) -> ServerInfo:
        if self._info is not None:
            return self._info
        async with self._probing:
            if self._info is None:
                try:
                    self._info = await self._probe(authorise)
                    self._probed = asyncio.get_running_loop().time()
                except UpstreamFailed as error:
                    self._failure = error.reason
                    raise
        return self._info

    async def send(self, out: Outbound) -> Reply:
        info = self._info or await self._info_by(out)
        try:
            reply = await self._send(out, info)
        except UpstreamFailed as error:
            self._failure = error.reason
            if asyncio.get_running_loop().time() - self._probed > _REPROBE_SECONDS:
                self._info = None  # it may come back as another version of itself
            raise
        self._failure = None
        return reply

    async def _info_by(self, out: Outbound) -> ServerInfo:
        try:
            async with asyncio.timeout_at(out.deadline):
                return await self.info(out.authorise)
        except TimeoutError:
            raise UpstreamFailed("it did not say in time which protocol it speaks") from None

    async def _send(self, out: Outbound, info: ServerInfo) -> Reply:
        if out.relayed:
            return await self._send_relayed(out)
        if info.era == "handshake":
            return await self._send_in_own_session(out, info)
        if out.era == "modern":
            headers = modern.request_headers(out.message.method, out.message.params, out.headers)
            size = out.message.size
            response = await self._post(out.message, headers, out.token, out.deadline, size)
            return as_reply(response)
        params = bridge.to_modern_params(out.message.params, self._client)
        headers = modern.request_headers(out.message.method, params, out.headers)
        document = {**out.message.document, "params": params}
        size = out.message.size
        response = await self._post(document, headers, out.token, out.deadline, size)
        return await self._translated(response, out, info, out.message.id)

    async def _send_relayed(self, out: Outbound) -> Reply:
        headers = f"MCP-Protocol-Version: {out.version}\r\n".encode()
        if out.message.method == "initialize":
            if self._era == "modern":
                raise UpstreamFailed("it is configured to speak 2026-07-28 only")
            headers = b""
        if out.session is not None:
            headers += session_line(out.session)
        size = out.message.size
        response = await self._post(out.message, headers, out.token, out.deadline, size)
        if response.status == 404 and out.session is not None:
            return Reply(404)
        return as_reply(response)

    async def _send_in_own_session(self, out: Outbound, info: ServerInfo) -> Reply:
        """Deliver in a session we hold for `binding`; once more, newly authorised, if it was forgotten."""
        params = bridge.to_handshake_params(out.message.params)
        token = out.token
        for attempt in (1, 2):
            session = await self._session(out)
            sent_id = next(self._ids) if out.message.kind == "request" else None
            document = {**out.message.document, "params": params}
            if sent_id is not None:
                document["id"] = sent_id
            headers = session_lines(session)
            try:
                size = out.message.size
                response = await self._post(document, headers, token, out.deadline, size)
            except asyncio.CancelledError:
                self._cancel_at_server(session, sent_id, out.authorise)
                raise
            if response.status != 404 or session.id is None or attempt == 2:
                return await self._translated(response, out, info, sent_id, session)
            response.abort()
            self._sessions.drop(out.binding, session)
            token = await out.authorise(out.message.method, params)
        raise AssertionError("unreachable")

    async def open_stream(self, out: Outbound, headers: Mapping[str, str]) -> Reply:
        lines = f"MCP-Protocol-Version: {out.version}\r\n".encode()
        lines += b"".join(f"{name}: {value}\r\n".encode() for name, value in headers.items())
        return await self._bodiless(b"GET", out, lines)

    async def end_session(self, out: Outbound) -> Reply:
        lines = f"MCP-Protocol-Version: {out.version}\r\n".encode()
        return await self._bodiless(b"DELETE", out, lines)

    async def _bodiless(self, method: bytes, out: Outbound, lines: bytes) -> Reply:
        if out.session is not None:
            lines += session_line(out.session)
        response = await self._open(method, lines, out.token, b"", out.deadline)
        if response.status in (200, 202, 204) and not is_stream(response):
            response.abort()
            return Reply(200)
        if response.status in (404, 405):
            response.abort()
            return Reply(response.status)
        return as_reply(response)

    def _post(
        self,
        document: Message | Document,
        lines: bytes,
        token: bytes | None,
        deadline: float,
        size: int = 0,
    ) -> Awaitable[UpstreamResponse]:
        """Post a message of about `size` bytes; a large one is written in a thread."""
        if size >= LARGE_REQUEST:
            return self._post_large(document, lines, token, deadline)
        return self._open(b"POST", lines, token, _written(document), deadline)

    async def _post_large(
        self, document: Message | Document, lines: bytes, token: bytes | None, deadline: float
    ) -> UpstreamResponse:
        body = await asyncio.to_thread(_written, document)
        return await self._open(b"POST", lines, token, body, deadline)

    async def _open(
        self, method: bytes, lines: bytes, token: bytes | None, body: bytes, deadline: float
    ) -> UpstreamResponse:
        response = await self._origin.open(
            method,
            self._target,
            self._headers + lines + self._credentials(token, method),
            body,
            deadline=deadline,
            max_body=self._max_answer,
        )
        response.shown = self._secrets
        if token is not None and len(token) >= SHORTEST_SECRET:
            response.shown = (token[-END:], *self._secrets)
        return response

    async def _translated(
        self,
        response: UpstreamResponse,
        out: Outbound,
        info: ServerInfo,
        sent_id: Any,
        session: Session | None = None,
    ) -> Reply:
        reply = as_reply(response)
        if reply.complete is None and reply.stream is None:
            return reply
        if sent_id is None or out.message.id is None:
            reply.abort()
            return Reply(202)
        how = Translation(
            out.message.method,
            sent_id,
            out.message.id,
            out.era,
            info,
            lambda request: self._refuse(request, session, out.authorise),
        )
        if reply.complete is not None:
            document = await parse_large(reply.complete)
            translated = await translate(one(document), how)
            translated.status = reply.status if out.era == "modern" else 200
            translated.shown = reply.shown
            return translated
        assert reply.stream is not None
        messages = documents(reply.stream, self._max_answer)
        try:
            async with asyncio.timeout_at(out.deadline):
                translated = await translate(self._watched(messages, session, sent_id, out), how)
        except BaseException as error:
            reply.abort()
            if isinstance(error, TimeoutError):
                raise UpstreamFailed("it gave no response in time") from None
            raise
        translated.abort = reply.abort
        translated.shown = reply.shown
        return translated

    async def _watched(
        self,
        messages: AsyncIterator[Document],
        session: Session | None,
        sent_id: Any,
        out: Outbound,
    ) -> AsyncIterator[Document]:
        """`messages`, telling a handshake server when nobody waits for them any more."""
        try:
            async for message in messages:
                yield message
        except (asyncio.CancelledError, GeneratorExit):
            if session is not None:
                self._cancel_at_server(session, sent_id, out.authorise)
            raise

    def _cancel_at_server(self, session: Session, sent_id: Any, authorise: Authorise) -> None:
        self._say(cancelled(sent_id), session, authorise)

    def _refuse(self, request: Document, session: Session | None, authorise: Authorise) -> None:
        self._say(declined(request), session, authorise)

    def _say(self, document: Document, session: Session | None, authorise: Authorise) -> None:
        """Post a notification or response without waiting for it."""

        async def post() -> None:
            try:
                method = document.get("method", "response")
                token = await authorise(method, document.get("params", {}))
                headers = session_lines(session) if session is not None else b""
                response = await self._post(document, headers, token, self._deadline())
                response.abort()
            except UpstreamFailed as error:
                self._failure = error.reason

        task = asyncio.ensure_future(post())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _session(self, out: Outbound) -> Session:
        async def open_session() -> Session:
            return (await self._opening.initialize(out.authorise))[1]

        try:
            async with asyncio.timeout_at(out.deadline):
                return await self._sessions.get(out.binding, open_session)
        except TimeoutError:
            raise UpstreamFailed("it did not open a session in time") from None

    async def _probe(self, authorise: Authorise) -> ServerInfo:
        if self._era != "handshake":
            found = await self._opening.discover(authorise)
            if found is not None:
                return found
            if self._era == "modern":
                raise UpstreamFailed(f"it does not speak {modern.VERSION}")
        info, session = await self._opening.initialize(authorise)

        async def opened() -> Session:
            return session

        await self._sessions.get(_OWN_BINDING, opened)
        return info

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._timeout


def _written(document: Message | Document) -> bytes:
    if isinstance(document, Message):
        return document.raw or encode(document.document)
    return encode(document)
