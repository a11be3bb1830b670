"""The contract between the story and a tool server, whatever transport and era that server speaks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol

from agentgw.core.principal import Caller
from agentgw.mcp.message import Message
from agentgw.mcp.modern import META_SERVER_INFO

Era = Literal["modern", "handshake"]
Authorise = Callable[[str, Mapping[str, Any]], Awaitable[bytes | None]]
"""Gives the token for an auxiliary request (method, params) we must make to deliver the agent's own;
its record is durable when it returns. None where the server takes no token of ours."""


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a tool server said of itself when we first spoke to it."""

    era: Era
    version: str
    capabilities: Mapping[str, Any]
    server: Mapping[str, Any]
    instructions: str | None

    @classmethod
    def of(cls, era: Era, version: str, result: Mapping[str, Any]) -> ServerInfo:
        """Read a `server/discover` or `initialize` result; parts of a wrong type count as absent."""
        meta = result.get("_meta")
        stamped = meta.get(META_SERVER_INFO) if isinstance(meta, dict) else None
        server = stamped if era == "modern" else result.get("serverInfo")
        capabilities, instructions = result.get("capabilities"), result.get("instructions")
        return cls(
            era,
            version,
            capabilities if isinstance(capabilities, dict) else {},
            server if isinstance(server, dict) else {},
            instructions if isinstance(instructions, str) else None,
        )


NO_HEADERS: Mapping[tuple[str, ...], str] = MappingProxyType({})


class Outbound(NamedTuple):
    """One message of an agent for a tool server: `message` as policy saw it, names already the server's own.

    `era` and `version` are the agent's; `token` goes along as bearer; `caller` is who the call is for,
    None for ourselves: sessions we open are never shared. Where `relayed`, the agent speaks to the server
    in the server's own session, and `session` is that session's id once there is one. `deadline` is in
    event-loop time. `account` names the connected account that is used, if one is.
    """

    message: Message
    era: Era
    version: str
    token: bytes | None
    authorise: Authorise
    caller: Caller | None
    deadline: float
    relayed: bool = False
    session: str | None = None
    headers: Mapping[tuple[str, ...], str] = NO_HEADERS
    account: str | None = None

    @property
    def binding(self) -> str:
        """Who it is for, as a key of the sessions we hold: subject, chain and account, or ourselves.

        A session that was opened with one account is not gone on with after its user connected another.
        """
        if self.caller is None:
            return ""
        account = () if self.account is None else (self.account,)
        hops = (hop.id for hop in self.caller.chain)
        return "\0".join((self.caller.subject.name, *hops, *account))


@dataclass(slots=True)
class Reply:
    """What came back: one whole JSON-RPC message in `complete`, or an event stream in `stream`.

    Neither for an accepted notification (202). `abort` gives up the rest and frees the connection.
    `shown` are the secrets that the server was shown with this request, which it must not hold.
    """

    status: int
    complete: bytes | None = None
    stream: AsyncIterator[bytes] | None = None
    session: str | None = None
    abort: Callable[[], None] = lambda: None
    shown: tuple[bytes, ...] = ()


class Link(Protocol):
    """One tool server. Safe for concurrent use; one call's failure never touches another's."""

    @property
    def name(self) -> str: ...

    @property
    def relays_sessions(self) -> bool:
        """True where a handshake agent can be given the server's own session (streamable HTTP)."""
        ...

    async def info(self, authorise: Authorise) -> ServerInfo:
        """What the server said of itself, asked once and kept. Raises UpstreamFailed."""
        ...

    async def send(self, out: Outbound) -> Reply:
        """Deliver one message. Raises UpstreamFailed; cancelling it cancels the call at the server."""
        ...

    async def open_stream(self, out: Outbound, headers: Mapping[str, str]) -> Reply:
        """Open the server's own event stream (GET), where it has one."""
        ...

    async def end_session(self, out: Outbound) -> Reply:
        """End the server's own session (DELETE), where it has one."""
        ...

    def describe(self) -> str | None:
        """The last failure in words, with the server's last words on stderr; None while all is well."""
        ...

    def retire(self) -> bool:
        """Keep nothing open that no request uses; True while one is under way."""
        ...

    async def close(self) -> None: ...
