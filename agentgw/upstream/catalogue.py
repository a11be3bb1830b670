"""What each tool server offers, asked by ourselves now and then, never per call."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from agentgw.core.catalog import EMPTY, Listing, build_listing
from agentgw.errors import CredentialRefused, Unavailable, UpstreamFailed
from agentgw.mcp import bridge, modern
from agentgw.mcp.message import METHOD_NOT_FOUND, Message
from agentgw.upstream.link import Authorise, Link, Outbound, Reply
from agentgw.upstream.translate import check_repeats_nothing, documents, parse_large

_log = logging.getLogger("agentgw.upstream")

NoteApproval = Callable[[str, Mapping[str, str]], Awaitable[None]]
"""Records that a server's tool definitions (digests by name) count as approved; durable on return."""


class Pins(Protocol):
    """The approved tool definitions of servers."""

    def of(self, server: str) -> Mapping[str, str]:
        """Approved digests by tool name; empty where nothing was ever approved."""
        ...

    def approve(self, server: str, digests: Mapping[str, str]) -> None:
        """Keep these digests as approved where the tool has none yet. Durable when it returns."""
        ...


class Catalogue:
    """The tools of one server.

    The first listing of a server is the approval: naming the server in the configuration said so. From
    then on new tools are withheld and changed ones refused, unless `first_use` lets new ones in.
    Each approval is noted before it counts.
    `fresh_for` is in seconds; an older listing is still served while a new one is fetched. `clock` is
    monotonic seconds. `refused` says that the server did not take our credential when it was last asked.
    """

    def __init__(
        self,
        link: Link,
        authorise: Authorise,
        pins: Pins,
        note_approval: NoteApproval,
        *,
        first_use: bool,
        client: Mapping[str, str],
        timeout: float,
        max_tools: int,
        max_pages: int,
        max_answer: int,
        clock: Callable[[], float],
        fresh_for: float = 60.0,
        retry_after: float = 2.0,
    ) -> None:
        self._link = link
        self._authorise = authorise
        self._pins = pins
        self._note_approval = note_approval
        self._first_use = first_use
        self._client = client
        self._timeout = timeout
        self._max_tools = max_tools
        self._max_pages = max_pages
        self._max_answer = max_answer
        self._clock = clock
        self._fresh_for = fresh_for
        self._retry_after = retry_after
        self._listing: Listing = EMPTY
        self._fetched: float | None = None
        self._tried = -1e9
        self._asked: float | None = None
        self._failure = ""
        self.refused: CredentialRefused | None = None
        self._running: asyncio.Task[None] | None = None

    @property
    def server(self) -> str:
        return self._link.name

    @property
    def at_hand(self) -> Listing | None:
        """The current listing while it is fresh, else None: then the server may be asked."""
        if self._fetched is None or self._clock() - self._fetched > self._fresh_for:
            return None
        return self._listing

    async def listing(self) -> Listing:
        """The current listing; waits only for the very first. Raises UpstreamFailed without one."""
        now = self._clock()
        if self._fetched is not None:
            if now - self._fetched > self._fresh_for and now - self._tried > self._retry_after:
                self._start()
            return self._listing
        if now - self._tried > self._retry_after or self._running is not None:
            await asyncio.shield(self._start())
        if not self.ready:
            raise UpstreamFailed(self._failure)
        return self._listing

    async def first_look(self, patience: float) -> None:
        """Wait for the first listing, but no later than `patience` seconds after it was first asked for.

        Never fails; a server that stays silent costs its neighbours' listings nothing after that.
        """
        now = self._clock()
        if self._fetched is not None:
            return
        if now - self._tried > self._retry_after:
            self._start()
        if self._running is not None and self._asked is not None:
            left = self._asked + patience - now
            if left > 0:
                await asyncio.wait({self._running}, timeout=left)

    @property
    def ready(self) -> bool:
        """Whether a listing is at hand without waiting."""
        return self._fetched is not None

    async def look_again(self) -> Listing:
        """A listing fetched just now, unless the last look was a moment ago. Raises UpstreamFailed."""
        if self._clock() - self._tried > self._retry_after:
            await asyncio.shield(self._start())
        return await self.listing()

    def expire(self) -> None:
        """The server said that its list changed: ask again at the next look."""
        if self._fetched is not None:
            self._fetched = self._clock() - self._fresh_for - 1
            self._tried = -1e9

    def retry(self) -> None:
        """Something changed on our side: what failed a moment ago is tried again at the next look."""
        self._tried = -1e9

    async def close(self) -> None:
        """Give up a fetch under way."""
        if self._running is not None:
            self._running.cancel()

    def _start(self) -> asyncio.Task[None]:
        if self._running is None:
            self._tried = self._clock()
            self._asked = self._tried if self._asked is None else self._asked
            self._running = asyncio.ensure_future(self._fetch())
        return self._running

    async def _fetch(self) -> None:
        refused = None
        try:
            async with asyncio.timeout(self._timeout):
                definitions = await self._pages()
            self._listing = await self._judge(definitions)
            self._fetched = self._clock()
            self._failure = ""
        except CredentialRefused as error:
            self._failure, refused = error.reason, error
        except UpstreamFailed as error:
            self._failure = error.reason
        except TimeoutError:
            self._failure = f"no answer to tools/list within {self._timeout:g} s"
        except Unavailable as error:
            self._failure = f"its tools could not be asked for or approved: {error}"
        except Exception as error:
            # Whatever a server sends must not end the task that all its callers wait for.
            self._failure = f"its tool list could not be read ({type(error).__name__})"
            _log.exception("could not read the tool list of %s", self.server)
        finally:
            self.refused = refused
            self._running = None

    async def _judge(self, definitions: list[dict[str, Any]]) -> Listing:
        """What of it counts; in threads, since neither a busy disk nor a long list must hold up calls."""

        def listing(pins: Mapping[str, str], accept_new: bool) -> Listing:
            headers = {
                item["name"]: modern.param_headers(item.get("inputSchema")) for item in definitions
            }
            return build_listing(self.server, definitions, headers, pins, accept_new=accept_new)

        pins = await asyncio.to_thread(self._pins.of, self.server)
        if pins and not self._first_use:
            return await asyncio.to_thread(listing, pins, False)
        found = await asyncio.to_thread(listing, pins, True)
        fresh = {name: tool.digest for name, tool in found.tools.items() if name not in pins}
        if not fresh:
            return found
        await self._note_approval(self.server, fresh)
        await asyncio.to_thread(self._pins.approve, self.server, fresh)
        # Another worker may have approved other definitions in between: the first ones stay.
        pins = await asyncio.to_thread(self._pins.of, self.server)
        return await asyncio.to_thread(listing, pins, self._first_use)

    async def _pages(self) -> list[dict[str, Any]]:
        definitions: list[dict[str, Any]] = []
        cursor: str | None = None
        for _ in range(self._max_pages):
            result = await self._ask({} if cursor is None else {"cursor": cursor})
            tools = result.get("tools")
            if not isinstance(tools, list):
                raise UpstreamFailed("its tools/list result has no list of tools")
            for item in tools:
                if not isinstance(item, dict) or not isinstance(item.get("name"), str):
                    raise UpstreamFailed("its tools/list result holds a tool without a name")
                definitions.append(item)
            if len(definitions) > self._max_tools:
                raise UpstreamFailed(f"it lists more than {self._max_tools} tools")
            cursor = result.get("nextCursor")
            if not isinstance(cursor, str):
                return definitions
        raise UpstreamFailed(f"its tool list has more than {self._max_pages} pages")

    async def _ask(self, params: dict[str, Any]) -> dict[str, Any]:
        params = bridge.to_modern_params(params, self._client)
        document = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": params}
        message = Message("request", 1, "tools/list", params, document)
        out = Outbound(
            message,
            "modern",
            modern.VERSION,
            await self._authorise("tools/list", params),
            self._authorise,
            None,
            asyncio.get_running_loop().time() + self._timeout,
        )
        reply = await self._link.send(out)
        answer = await final_document(reply, self._max_answer)
        await check_repeats_nothing(answer, reply.shown)
        result = answer.get("result")
        if isinstance(result, dict):
            return result
        error = answer.get("error")
        if isinstance(error, dict) and error.get("code") == METHOD_NOT_FOUND:
            return {"tools": []}
        raise UpstreamFailed("it answered tools/list with an error")


async def final_document(reply: Reply, limit: int) -> dict[str, Any]:
    """The final response of a reply, read to its end. Raises UpstreamFailed."""
    if reply.complete is not None:
        return await parse_large(reply.complete)
    elif reply.stream is not None:
        try:
            async for document in documents(reply.stream, limit):
                if "method" not in document:
                    return document
        finally:
            reply.abort()
    raise UpstreamFailed("it ended its answer without a response")
