"""What the face hands to the story, and what it gets back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from agentgw.core.external_exchange import Credential
from agentgw.core.principal import Caller, Subject
from agentgw.core.record import Assurance
from agentgw.errors import CredentialRefused
from agentgw.mcp.message import Message
from agentgw.upstream.catalogue import Catalogue
from agentgw.upstream.link import Era, Link, Outbound, Reply

JSON = b"application/json"
EVENT_STREAM = b"text/event-stream"
OPEN_STREAM, END_SESSION = "GET", "DELETE"
"""Methods of our own for the two HTTP requests that carry no message."""


class Credentials(Protocol):
    """Where the credentials of one tool server come from."""

    def lookup(
        self, caller: Caller, scope: str | None, owner: Subject | None = None
    ) -> Credential | None:
        """The one had lately for this caller and scope of the tool; asks nobody.

        `owner` is whose account a grant lets an agent use that acts for no user.
        """
        ...

    async def obtain(
        self, caller: Caller, token: bytes | None, scope: str | None, owner: Subject | None = None
    ) -> Credential:
        """One for this caller, whose own token is `token`. Raises UpstreamFailed or Unavailable."""
        ...

    async def renew(
        self,
        caller: Caller,
        scope: str | None,
        refused: Credential | None,
        error: CredentialRefused,
        owner: Subject | None = None,
        *,
        again: bool = False,
    ) -> Credential | None:
        """Keep the one the server refused no longer; another to try at once, None where there is none.

        `again` says that `refused` was such another. Raises UpstreamFailed or Unavailable.
        """
        ...

    async def own(self) -> Credential | None:
        """One for ourselves; None where the server lets us in without. Raises as `obtain`."""
        ...


@dataclass(frozen=True, slots=True)
class Server:
    """A tool server as the story needs it.

    `audience` is what its tokens are for, None where it takes none of ours. `scopes` are the scopes its
    tools demand, by tool; `approvals` the tools that need a human. `timeout` and `life` are seconds.
    `may_act` is the id of the agent this server is, if it is one. `typ` and `alg` are those of its tokens,
    `jkt` the thumbprint of the key of ours they are bound to, if they are.
    `credentials` gives those of another authorization server, where it takes these instead.
    """

    name: str
    link: Link
    catalogue: Catalogue
    audience: str | None
    assurance: Assurance
    scopes: Mapping[str, str]
    approvals: frozenset[str]
    timeout: float
    life: int
    typ: str
    may_act: str | None = None
    alg: str = "ES256"
    jkt: str | None = None
    credentials: Credentials | None = None


@dataclass(frozen=True, slots=True)
class AgentSession:
    """A handshake session as an agent holds it: `id` is the sealed value, `upstream` the server's own id.

    `relayed` says that the session is the server's own, even if that gave it no id; `elicits_urls` that
    the agent can be asked to have a URL opened.
    """

    id: str
    version: str
    relayed: bool
    upstream: str | None
    elicits_urls: bool = False


class Incoming(NamedTuple):
    """One authenticated request. `server` is None on `/mcp`; `version` is the agent's protocol version.

    `client` is the agent's own word about its software; `trace` a W3C trace id; `session` is set where a
    handshake agent holds one. `token` is the caller's own, kept only where a server's credentials are had
    with it. `answered` says that the message came with an answer to what we asked for ourselves.
    """

    caller: Caller
    message: Message
    server: str | None
    era: Era
    version: str
    event_id: str
    source: str | None
    client: str | None
    trace: str | None = None
    session: AgentSession | None = None
    last_event_id: str | None = None
    token: bytes | None = None
    answered: bool = False

    def without_content(self) -> Incoming:
        """The same without what the message carried: a stream may outlive the need for it by hours."""
        message = self.message._replace(params={}, document={}, raw=None)
        return self._replace(message=message, token=None)


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session the face must seal and give to the agent."""

    version: str
    relayed: bool
    upstream: str | None
    elicits_urls: bool = False


@dataclass(slots=True)
class Answer:
    """What goes back: a whole `body`, or a `stream`, or neither (202 and the like).

    `session` is a new one the face must seal for the agent, `upstream_session` the id a server gave.
    `challenge` is the scope value of a 403's WWW-Authenticate; `retry_after` is in seconds.
    `refused` marks an answer of our own making in place of the server's; `assurance` says of a server's own
    how much of the chain that server was shown.
    """

    status: int
    body: bytes = b""
    content_type: bytes = JSON
    stream: AsyncIterator[bytes] | None = None
    session: NewSession | None = None
    upstream_session: str | None = None
    challenge: str | None = None
    retry_after: int | None = None
    refused: bool = False
    assurance: Assurance | None = None


def transmit(server: Server, incoming: Incoming, out: Outbound) -> Awaitable[Reply]:
    """Send `out` by the HTTP request that `incoming` came in. Raises UpstreamFailed when awaited."""
    method = incoming.message.method
    if method == OPEN_STREAM:
        last = incoming.last_event_id
        return server.link.open_stream(out, {"Last-Event-ID": last} if last else {})
    if method == END_SESSION:
        return server.link.end_session(out)
    return server.link.send(out)
