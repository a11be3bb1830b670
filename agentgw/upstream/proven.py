"""A tool server that wants nonces: what it refused for lack of one is sent again, newly authorised."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from agentgw.core.call_token import call_parts
from agentgw.upstream.link import Authorise, Link, Outbound, Reply, ServerInfo
from agentgw.upstream.proof import NonceDemanded


class ProvenLink:
    """Implements Link over `inner`, whose requests carry proofs of ours.

    A request answered with `use_dpop_nonce` was refused before it did anything (RFC 9449 section 9), so
    it is sent once more, with the nonce and with a token and a record of its own: ours are single use.
    """

    def __init__(self, inner: Link) -> None:
        self._inner = inner

    @property
    def name(self) -> str:
        return self._inner.name

    @property
    def relays_sessions(self) -> bool:
        return self._inner.relays_sessions

    async def info(self, authorise: Authorise) -> ServerInfo:
        try:
            return await self._inner.info(authorise)
        except NonceDemanded:
            return await self._inner.info(authorise)

    async def send(self, out: Outbound) -> Reply:
        return await _twice(self._inner.send, out)

    async def open_stream(self, out: Outbound, headers: Mapping[str, str]) -> Reply:
        return await _twice(lambda again: self._inner.open_stream(again, headers), out)

    async def end_session(self, out: Outbound) -> Reply:
        return await _twice(self._inner.end_session, out)

    def describe(self) -> str | None:
        return self._inner.describe()

    def retire(self) -> bool:
        return self._inner.retire()

    async def close(self) -> None:
        await self._inner.close()


async def _twice(send: Callable[[Outbound], Awaitable[Reply]], out: Outbound) -> Reply:
    try:
        return await send(out)
    except NonceDemanded:
        method, _, params = call_parts(out.message.document)
        token = await out.authorise(method, params if isinstance(params, dict) else {})
        return await send(out._replace(token=token))
