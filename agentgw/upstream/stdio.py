"""One tool server as a child process: JSON-RPC over its standard input and output.

Many callers share the process. It is started on first use, started again after it ended, and told
when a caller gives up. Source: MCP 2025-11-25 and 2026-07-28, "stdio" transport.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentgw.errors import UpstreamFailed
from agentgw.mcp.message import LARGE_REQUEST, METHOD_NOT_FOUND
from agentgw.mcp.spelling import SHORTEST_SECRET
from agentgw.upstream.child import Child, child_environment, line_of

_log = logging.getLogger(__name__)

Notify = Callable[[dict[str, Any]], None]

SUBSCRIPTION_ID = "io.modelcontextprotocol/subscriptionId"
PATIENCE = 1.0
"""Seconds of back-off a request waits out; with more to go it fails with the last reason."""

_starting: contextvars.ContextVar[StdioServer | None] = contextvars.ContextVar(
    "agentgw_stdio_starting", default=None
)


@dataclass(slots=True)
class _Call:
    answer: asyncio.Future[dict[str, Any]]
    on_notification: Notify | None
    token: object


class StdioServer:
    """A tool server run by `command` and `args`, with `env` and little else of our environment.

    `name` is for logs only. `max_message` caps one message in bytes, `stderr_lines` how many last
    lines of standard error are kept. `on_start` is awaited after each start, before other requests
    pass; requests it makes itself pass (the handshake). `on_broadcast` takes notifications that
    belong to no request. After an end the next start waits `backoff` seconds (first, longest),
    doubling; a process that lived longer than the longest starts over. `start_timeout` bounds
    `on_start`, `stop_grace` the time between SIGTERM and SIGKILL, in seconds.
    """

    def __init__(
        self,
        command: str,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        *,
        name: str,
        max_message: int = 16 * 1024 * 1024,
        stderr_lines: int = 20,
        on_start: Callable[[StdioServer], Awaitable[None]] | None = None,
        on_broadcast: Notify | None = None,
        backoff: tuple[float, float] = (0.1, 5.0),
        start_timeout: float = 30.0,
        stop_grace: float = 2.0,
    ) -> None:
        self.name = name
        self.on_start = on_start
        self.on_broadcast = on_broadcast
        self._command = command
        self._args = tuple(args)
        self._env = dict(env or {})
        self._cwd = cwd
        self._max_message = max_message
        self._stderr_lines = stderr_lines
        self._backoff = backoff
        self._delay = backoff[0]
        self._not_before = 0.0
        self._start_timeout = start_timeout
        self._stop_grace = stop_grace
        self._child: Child | None = None
        self._ready = False
        self._started_at = 0.0
        self._start: asyncio.Task[None] | None = None
        self._calls: dict[int, _Call] = {}
        self._last_id = 0
        self._failure: str | None = None
        self._closed = False

    @property
    def failure(self) -> str | None:
        """Why it last ended or did not start, with its last words; None while all is well."""
        return None if self._is_ready() else self._failure

    @property
    def busy(self) -> bool:
        """Whether requests are under way."""
        return bool(self._calls)

    async def start(self) -> None:
        """Start the process, with its `on_start`, unless it runs. Raises UpstreamFailed."""
        if self._is_ready() or _starting.get() is self:
            return
        if self._closed:
            raise UpstreamFailed("was stopped by the gateway")
        if self._start is None:
            wait = self._not_before - asyncio.get_running_loop().time()
            if wait > PATIENCE and self._failure is not None:
                raise UpstreamFailed(f"{self._failure} (next start in {wait:.1f} s)")
            self._start = asyncio.create_task(self._run_start())
            self._start.add_done_callback(self._start_done)
        start = self._start
        try:
            # One caller that gives up must not stop the start for the others.
            await asyncio.shield(start)
        except asyncio.CancelledError:
            if start.cancelled() and self._closed:
                raise UpstreamFailed("was stopped by the gateway") from None
            raise

    async def request(
        self,
        method: str,
        params: Mapping[str, Any] | None,
        *,
        deadline: float,
        on_notification: Notify | None = None,
        size: int = 0,
    ) -> dict[str, Any]:
        """Send one request and give the raw response message, its `id` being ours.

        `size` is about how many bytes it takes. `deadline` is in event-loop seconds and includes a
        start. A token of ours takes the place of `params._meta.progressToken`, where there is one;
        `on_notification` gets the progress with the caller's own token back in place, and what belongs
        to a subscription this request opened.
        Cancelling, or the deadline, tells the server (notifications/cancelled). Raises UpstreamFailed.
        """
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(deadline):
                await self.start()
                return await self._exchange(method, params, on_notification, size)
        except TimeoutError:
            raise UpstreamFailed(
                f"gave no answer within {max(deadline - began, 0):.3g} s"
            ) from None

    async def notify(
        self, method: str, params: Mapping[str, Any] | None = None, size: int = 0
    ) -> None:
        """Send one notification, starting the process where needed. Raises UpstreamFailed."""
        await self.start()
        self._write(await _written(_message(method, params), size))

    async def close(self) -> None:
        """End the process and its group; requests still running fail with UpstreamFailed."""
        self._closed = True
        self._ready = False
        if self._start is not None:
            self._start.cancel()
            await asyncio.wait([self._start])
        if self._child is not None:
            await self._child.stop(self._stop_grace)

    # What the child reports

    def received(self, child: Child, message: dict[str, Any]) -> None:
        """Route one message: a response, a request of the server's, or a notification."""
        method, message_id = message.get("method"), message.get("id")
        if isinstance(method, str):
            if "id" in message:
                self._answer(child, method, message_id)
            else:
                self._notified(method, message)
        elif type(message_id) is int and ("result" in message) != ("error" in message):
            call = self._calls.get(message_id)
            if call is not None and not call.answer.done():
                call.answer.set_result(message)

    def ended(self, child: Child, reason: str) -> None:
        """Fail what is pending and set the time of the next start."""
        if self._child is not child:
            return
        lived = asyncio.get_running_loop().time() - self._started_at
        self._ready = False
        if lived > self._backoff[1]:
            self._delay = self._backoff[0]
        self._back_off()
        words = child.last_words[-3:]
        self._failure = reason + (f"; its last words: {' | '.join(words)[-300:]}" if words else "")
        if not self._closed:
            _log.warning("%s %s (after %.1f s)", self.name, self._failure, lived)
        for call in self._calls.values():
            if not call.answer.done():
                call.answer.set_exception(UpstreamFailed(self._failure))

    def _back_off(self) -> None:
        self._not_before = asyncio.get_running_loop().time() + self._delay
        self._delay = min(self._delay * 2, self._backoff[1])

    # Starting

    def _is_ready(self) -> bool:
        return self._ready and self._child is not None and self._child.running

    async def _run_start(self) -> None:
        loop = asyncio.get_running_loop()
        if self._child is not None:
            await self._child.gone()
        await asyncio.sleep(max(self._not_before - loop.time(), 0))
        self._started_at = loop.time()
        try:
            self._child = await Child.start(
                self,
                self._command,
                self._args,
                env=child_environment(os.environ, self._env),
                cwd=self._cwd,
                max_message=self._max_message,
                stderr_lines=self._stderr_lines,
                hidden=[v for v in self._env.values() if len(v) >= SHORTEST_SECRET],
            )
        except UpstreamFailed as error:
            self._failure = error.reason
            self._back_off()
            raise
        await self._greet(self._child)
        if not self._child.running:
            # Its input closes before its end is known, and with it why.
            await self._child.gone()
            raise UpstreamFailed(self._failure or "ended right after its start")
        self._ready = True
        self._failure = None

    async def _greet(self, child: Child) -> None:
        if self.on_start is None:
            return
        _starting.set(self)
        try:
            async with asyncio.timeout(self._start_timeout):
                await self.on_start(self)
        except TimeoutError:
            reason = f"did not finish its start within {self._start_timeout:.3g} s"
            child.kill(reason)
            await child.gone()
            raise UpstreamFailed(reason) from None
        except UpstreamFailed as error:
            child.kill(error.reason)
            await child.gone()
            raise
        except BaseException:
            child.kill("failed its start")
            raise

    def _start_done(self, task: asyncio.Task[None]) -> None:
        self._start = None
        if not task.cancelled():
            task.exception()  # every waiter may have given up; each of them got it otherwise

    # Requests and notifications

    async def _exchange(
        self,
        method: str,
        params: Mapping[str, Any] | None,
        on_notification: Notify | None,
        size: int,
    ) -> dict[str, Any]:
        self._last_id += 1
        own_id = self._last_id
        message = _message(method, params)
        message["params"], token = _with_token(message.get("params"), own_id)
        if message["params"] is None:
            del message["params"]
        message["id"] = own_id
        line = await _written(message, size)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._calls[own_id] = _Call(answer, on_notification, token)
        try:
            self._write(line)
            return await answer
        except asyncio.CancelledError:
            if answer.cancelled() and method != "initialize":
                self._tell_cancelled(own_id)
            raise
        finally:
            del self._calls[own_id]
            if answer.done() and not answer.cancelled():
                answer.exception()  # looked at, even where the caller left in the same moment

    def _write(self, line: bytes) -> None:
        if self._child is None:
            raise UpstreamFailed("is not running")
        self._child.write(line)

    def _tell_cancelled(self, own_id: int) -> None:
        params = {"requestId": own_id, "reason": "the caller gave up or the deadline has come"}
        try:
            self._write(line_of(_message("notifications/cancelled", params)))
        except UpstreamFailed:
            return

    def _answer(self, child: Child, method: str, message_id: object) -> None:
        """Requests of the server: it may ask whether we live, and nothing else."""
        answer: dict[str, Any] = {"jsonrpc": "2.0", "id": message_id}
        if method == "ping":
            answer["result"] = {}
        else:
            answer["error"] = {"code": METHOD_NOT_FOUND, "message": "Method not found"}
        try:
            child.write(line_of(answer))
        except UpstreamFailed:
            return

    def _notified(self, method: str, message: dict[str, Any]) -> None:
        params = message.get("params")
        params = params if isinstance(params, dict) else {}
        if method == "notifications/progress":
            call = self._call_of(params.get("progressToken"))
            if call is None or call.token is None:
                return
            message = {**message, "params": {**params, "progressToken": call.token}}
            listener = call.on_notification
        else:
            meta = params.get("_meta")
            call = self._call_of(meta.get(SUBSCRIPTION_ID)) if isinstance(meta, dict) else None
            listener = self.on_broadcast if call is None else call.on_notification
        if listener is None:
            return
        try:
            listener(message)
        except Exception as error:  # one listener's fault must not end the server for the others
            _log.error("a listener of %s failed: %s", self.name, type(error).__name__)

    def _call_of(self, own_id: object) -> _Call | None:
        return self._calls.get(own_id) if type(own_id) is int else None


def _message(method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    if params is not None:
        message["params"] = params
    return message


async def _written(message: Mapping[str, Any], size: int) -> bytes:
    if size < LARGE_REQUEST:
        return line_of(message)
    return await asyncio.to_thread(line_of, message)


def _with_token(
    params: Mapping[str, Any] | None, own: int
) -> tuple[Mapping[str, Any] | None, object]:
    """`params` with our progress token in the place of the caller's, and the caller's (or None)."""
    meta = params.get("_meta") if params is not None else None
    if params is None or not isinstance(meta, dict) or meta.get("progressToken") is None:
        return params, None
    return {**params, "_meta": {**meta, "progressToken": own}}, meta["progressToken"]
