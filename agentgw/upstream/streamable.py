"""A tool server over streamable HTTP, of either era."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import Any, Literal

from agentgw.errors import UpstreamFailed
from agentgw.mcp import bridge, handshake, modern
from agentgw.mcp.message import Message, encode
from agentgw.upstream.headers import (
    bearer_line,
    complaint,
    is_stream,
    may_pass,
    session_id,
    session_line,
    session_lines,
)
from agentgw.upstream.http import HttpOrigin, UpstreamResponse
from agentgw.upstream.link import Authorise, Outbound, Reply, ServerInfo
from agentgw.upstream.sessions import Session, SessionPool
from agentgw.upstream.translate import (
    Document,
    Translation,
    cancelled,
    declined,
    documents,
    one,
    parse_document,
    parse_large,
    translate,
)

_BASE_HEADERS = (
    b"Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"
    b"User-Agent: agentgw\r\n"
)
CONTENT_TYPE, JSON = b"content-type", b"application/json"
_OWN_BINDING = ""
"""The binding of what we ask on our own account, as `Outbound.binding` gives it without a caller."""
_REPROBE_SECONDS = 30.0


class StreamableHttp:
    """Implements Link for one URL.

    `extra_headers` are ready header lines of the operator (`auth.mode: header`). `client` is the name and
    version we give as clientInfo where the agent gave none that the server may see. `timeout` bounds, in
    seconds, what we ask on our own account.
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
        client: Mapping[str, str],
        max_answer: int,
        timeout: float,
    ) -> None:
        self._name = name
        self._target = target
        self._origin = origin
        self._era = era
        self._headers = _BASE_HEADERS + extra_headers
        self._client = client
        self._max_answer = max_answer
        self._timeout = timeout
        self._info: ServerInfo | None = None
        self._probed = 0.0
        self._probing = asyncio.Lock()
        self._sessions = SessionPool()
        self._ids = itertools.count(1)
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
            response = await self._post(out.message, headers, out.token, out.deadline)
            return self._relay(response)
        params = bridge.to_modern_params(out.message.params, self._client)
        headers = modern.request_headers(out.message.method, params, out.headers)
        document = {**out.message.document, "params": params}
        response = await self._post(document, headers, out.token, out.deadline)
        return await self._translated(response, out, info, out.message.id)

    async def _send_relayed(self, out: Outbound) -> Reply:
        headers = f"MCP-Protocol-Version: {out.version}\r\n".encode()
        if out.message.method == "initialize":
            if self._era == "modern":
                raise UpstreamFailed("it is configured to speak 2026-07-28 only")
            headers = b""
        if out.session is not None:
            headers += session_line(out.session)
        response = await self._post(out.message, headers, out.token, out.deadline)
        if response.status == 404 and out.session is not None:
            return Reply(404)
        return self._relay(response)

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
                response = await self._post(document, headers, token, out.deadline)
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
        return await self._bodiless(
            b"DELETE", out, f"MCP-Protocol-Version: {out.version}\r\n".encode()
        )

    async def _bodiless(self, method: bytes, out: Outbound, lines: bytes) -> Reply:
        if out.session is not None:
            lines += session_line(out.session)
        response = await self._origin.open(
            method,
            self._target,
            self._headers + lines + bearer_line(out.token),
            b"",
            deadline=out.deadline,
            max_body=self._max_answer,
        )
        if response.status in (200, 202, 204) and not is_stream(response):
            response.abort()
            return Reply(200)
        if response.status in (404, 405):
            response.abort()
            return Reply(response.status)
        return self._relay(response)

    def _post(
        self, document: Message | Document, lines: bytes, token: bytes | None, deadline: float
    ) -> Awaitable[UpstreamResponse]:
        return self._origin.open(
            b"POST",
            self._target,
            self._headers + lines + bearer_line(token),
            (document.raw or encode(document.document))
            if isinstance(document, Message)
            else encode(document),
            deadline=deadline,
            max_body=self._max_answer,
        )

    def _relay(self, response: UpstreamResponse) -> Reply:
        """The answer byte for byte, after the checks that keep a bad server from posing as us."""
        status, body = response.status, response.complete
        found = session_id(response)
        if status == 200 and body is not None and response.headers.get(CONTENT_TYPE) == JSON:
            return Reply(200, body, session=found)
        if status == 202 or status == 204:
            response.abort()
            return Reply(202, session=found)
        if status == 200 and is_stream(response):
            return Reply(200, stream=aiter(response), session=found, abort=response.abort)
        if body is None or not may_pass(status, response):
            response.abort()
            raise UpstreamFailed(complaint(status))
        return Reply(status, body, session=found)

    async def _translated(
        self,
        response: UpstreamResponse,
        out: Outbound,
        info: ServerInfo,
        sent_id: Any,
        session: Session | None = None,
    ) -> Reply:
        reply = self._relay(response)
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
            return (await self._initialize(out.authorise))[1]

        try:
            async with asyncio.timeout_at(out.deadline):
                return await self._sessions.get(out.binding, open_session)
        except TimeoutError:
            raise UpstreamFailed("it did not open a session in time") from None

    async def _probe(self, authorise: Authorise) -> ServerInfo:
        if self._era != "handshake":
            found = await self._discover(authorise)
            if found is not None:
                return found
            if self._era == "modern":
                raise UpstreamFailed(f"it does not speak {modern.VERSION}")
        info, session = await self._initialize(authorise)

        async def opened() -> Session:
            return session

        await self._sessions.get(_OWN_BINDING, opened)
        return info

    async def _discover(self, authorise: Authorise) -> ServerInfo | None:
        params = bridge.to_modern_params({}, self._client)
        token = await authorise("server/discover", params)
        headers = modern.request_headers("server/discover", params, {})
        response = await self._ask(headers, "server/discover", params, token)
        if response.status not in (200, 400, 404, 405, 406):
            response.abort()
            raise UpstreamFailed(complaint(response.status))
        result = await self._result(response) if response.status == 200 else None
        response.abort()
        if result is None or modern.VERSION not in result.get("supportedVersions", ()):
            return None
        return ServerInfo.of("modern", modern.VERSION, result)

    async def _initialize(self, authorise: Authorise) -> tuple[ServerInfo, Session]:
        params = handshake.initialize_params(self._client["name"], self._client["version"])
        token = await authorise("initialize", params)
        response = await self._ask(b"", "initialize", params, token)
        reply = self._relay(response)
        result = await self._result(response)
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
    ) -> UpstreamResponse:
        """Send a request of our own."""
        document = {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": params}
        return await self._post(document, lines, token, self._deadline())

    async def _result(self, response: UpstreamResponse) -> Document | None:
        """The result of a request of our own, or None where it was answered with an error."""
        if response.complete is not None and not is_stream(response):
            document = parse_document(response.complete)
        else:
            async with asyncio.timeout_at(self._deadline()):
                async for document in documents(aiter(response), self._max_answer):
                    if "method" not in document:
                        break
                else:
                    raise UpstreamFailed("it ended its answer without a response")
        result = document.get("result")
        return result if isinstance(result, dict) else None

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._timeout
