"""A tool server that runs as our child and speaks over its standard input and output."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Literal

from agentgw.errors import UpstreamFailed
from agentgw.mcp import bridge, handshake, modern
from agentgw.mcp.message import encode
from agentgw.upstream.link import Authorise, Outbound, Reply, ServerInfo
from agentgw.upstream.stdio import StdioServer
from agentgw.upstream.translate import Document, Translation, one, parse_document, translate

_log = logging.getLogger(__name__)

HELD_PROGRESS = 1024 * 1024
"""Bytes of progress kept for an agent that does not read; what a call reports beyond them is dropped."""

_OVERHEAD = 100
"""Bytes a held notification costs besides its own."""


class ProcessLink:
    """Implements Link over one child process shared by all callers.

    `client` is the clientInfo we give, `timeout` bounds the handshake in seconds. No token ever goes to a
    stdio server (MCP 2026-07-28, authorization: credentials come from the environment there).
    """

    relays_sessions = False

    def __init__(
        self,
        name: str,
        server: StdioServer,
        *,
        era: Literal["auto", "modern", "handshake"] = "auto",
        client: Mapping[str, str],
        timeout: float,
    ) -> None:
        self._name = name
        self._server = server
        self._era = era
        self._client = client
        self._timeout = timeout
        self._info: ServerInfo | None = None
        self.on_list_changed: Callable[[], None] = lambda: None
        server.on_start = self._shake_hands
        server.on_broadcast = self._heard

    @property
    def name(self) -> str:
        return self._name

    def describe(self) -> str | None:
        return self._server.failure

    def retire(self) -> bool:
        return self._server.busy

    async def close(self) -> None:
        await self._server.close()

    async def info(self, authorise: Authorise) -> ServerInfo:
        if self._info is None:
            await self._server.start()
        if self._info is None:
            raise UpstreamFailed("it did not finish its handshake")
        return self._info

    async def send(self, out: Outbound) -> Reply:
        info = await self.info(out.authorise)
        message = out.message
        if info.era == "modern" and out.era == "modern":
            params = message.params
        elif info.era == "modern":
            params = bridge.to_modern_params(message.params, self._client)
        else:
            params = bridge.to_handshake_params(message.params)
        if message.kind != "request" or message.id is None:
            await self._server.notify(message.method, params, message.size)
            return Reply(202)
        how = Translation(message.method, message.id, message.id, out.era, info)
        if "progressToken" not in message.meta:
            answer = await self._server.request(
                message.method, params, deadline=out.deadline, size=message.size
            )
            answer["id"] = message.id
            return await translate(one(answer), how)
        return await translate(self._messages(out, params), how)

    async def _messages(self, out: Outbound, params: dict[str, Any]) -> AsyncIterator[Document]:
        """Progress as it comes, then the response; giving up on it cancels the call at the server."""
        arrived = _Arrivals()
        request = asyncio.ensure_future(
            self._server.request(
                out.message.method,
                params,
                deadline=out.deadline,
                on_notification=arrived.put,
                size=out.message.size,
            )
        )
        request.add_done_callback(lambda _: arrived.end())
        try:
            async for document in arrived:
                yield document
            answer = await request
            answer["id"] = out.message.id
            yield answer
        finally:
            request.cancel()
            if arrived.dropped:
                _log.warning("%s: dropped %d notifications", self._name, arrived.dropped)

    async def open_stream(self, out: Outbound, headers: Mapping[str, str]) -> Reply:
        return Reply(405)

    async def end_session(self, out: Outbound) -> Reply:
        return Reply(405)

    def _heard(self, notification: Document) -> None:
        if notification.get("method") == "notifications/tools/list_changed":
            self.on_list_changed()

    async def _shake_hands(self, server: StdioServer) -> None:
        """Find the server's era: `server/discover` first, `initialize` where that is unknown."""
        if self._era != "handshake":
            self._info = await self._discover(server)
            if self._info is not None:
                return
            if self._era == "modern":
                raise UpstreamFailed(f"it does not speak {modern.VERSION}")
        params = handshake.initialize_params(self._client["name"], self._client["version"])
        answer = await server.request("initialize", params, deadline=self._deadline())
        result = answer.get("result")
        if not isinstance(result, dict) or not isinstance(result.get("protocolVersion"), str):
            raise UpstreamFailed("it answered initialize with no protocol version")
        await server.notify("notifications/initialized", None)
        self._info = ServerInfo.of("handshake", result["protocolVersion"], result)

    async def _discover(self, server: StdioServer) -> ServerInfo | None:
        params = bridge.to_modern_params({}, self._client)
        answer = await server.request("server/discover", params, deadline=self._deadline())
        result = answer.get("result")
        if not isinstance(result, dict) or modern.VERSION not in result.get(
            "supportedVersions", ()
        ):
            return None
        return ServerInfo.of("modern", modern.VERSION, result)

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._timeout


class _Arrivals:
    """What a server says during one call, in order, as bytes until somebody takes it."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._held = 0
        self.dropped = 0

    def put(self, document: Document) -> None:
        """Keep a notification, or drop it where too much waits already."""
        data = encode(document)
        cost = len(data) + _OVERHEAD
        if self._held + cost > HELD_PROGRESS:
            self.dropped += 1
            return
        self._held += cost
        self._queue.put_nowait(data)

    def end(self) -> None:
        """Nothing more will come."""
        self._queue.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[Document]:
        while (data := await self._queue.get()) is not None:
            self._held -= len(data) + _OVERHEAD
            yield parse_document(data)
