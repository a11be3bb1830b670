"""The MCP face towards agents: `/mcp` and `/mcp/{server}`, both eras."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Any, Protocol

from agentgw.core.claims import admits
from agentgw.core.principal import Caller
from agentgw.core.refusal import UNAVAILABLE
from agentgw.errors import InvalidToken, MalformedMessage, Unavailable
from agentgw.gateway.call import Gateway
from agentgw.gateway.incoming import (
    END_SESSION,
    EVENT_STREAM,
    JSON,
    OPEN_STREAM,
    AgentSession,
    Answer,
    Incoming,
)
from agentgw.gateway.problems import error_body
from agentgw.gateway.switchboard import Switchboard
from agentgw.http.answers import ASSURED, metadata_url, quotable, respond, stream_out
from agentgw.http.connection import body_at_once
from agentgw.http.one_request import HEADER as SUBJECT_TOKEN
from agentgw.http.one_request import OneRequest
from agentgw.http.possession import Possession, dpop_token
from agentgw.http.presence import Presence
from agentgw.http.request import (
    CountRefusal,
    Networks,
    Receive,
    RefusedRequest,
    Scope,
    Send,
    bearer,
    check_body_headers,
    client_of,
    headers_of,
    read_body,
    read_message,
    source_of,
    text,
    too_large,
    trace_of,
    user_agent_of,
)
from agentgw.http.sessions import SessionSeal
from agentgw.mcp import handshake, modern
from agentgw.mcp.message import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    LARGE_REQUEST,
    Message,
    encode,
)

_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")
"""RFC 6749 section 3.3: what else a token calls a scope could not stand in a header."""

_log = logging.getLogger("agentgw.http")


class Authenticator(Protocol):
    """Says who a token stands for."""

    def lookup(self, token: bytes, now: float) -> Caller | None:
        """The caller of a token verified lately, else None."""
        ...

    async def authenticate(self, token: bytes, now: float) -> Caller:
        """Verify a token. Raises InvalidToken."""
        ...


@dataclass(frozen=True, slots=True)
class Door:
    """What the face knows of the configuration; swapped whole on a reload.

    `one_request` takes up a hand-over that comes along. `challenge_scope` gives the scope to name in a
    401 for a server (None for `/mcp`), or "". The `trusted_proxies` are believed about where requests
    come from. `presence` judges agents that must show their own certificate, None where there are none.
    `possession` judges bound tokens. `keeps_token` holds the servers (None: `/mcp`) for which the caller's
    own token is kept as long as its call lasts, `undiscovered` those whose challenges name no metadata.
    """

    public_url: str
    servers: Collection[str]
    challenge_scope: Callable[[str | None], str]
    authenticator: Authenticator
    one_request: OneRequest
    may_reach: Callable[[Caller, str], bool]
    body_limit: int
    body_deadline: float
    json_depth: int
    possession: Possession
    trusted_proxies: Networks = ()
    presence: Presence | None = None
    keeps_token: Collection[str | None] = ()
    undiscovered: Collection[str | None] = ()

    def metadata(self, server: str | None) -> str:
        """The parameter of a challenge that leads to a resource's metadata; empty where none is shown."""
        if server in self.undiscovered:
            return ""
        return f'resource_metadata="{metadata_url(self.public_url, server)}"'


class Downstream:
    """An ASGI application for the MCP paths. `unauthenticated` counts a refusal by its source."""

    def __init__(
        self,
        door: Door,
        gateway: Gateway,
        seal: SessionSeal,
        clock: Callable[[], float],
        unauthenticated: CountRefusal,
    ) -> None:
        self.door = door
        self._gateway = gateway
        self._switchboard = Switchboard(gateway)
        self._seal = seal
        self._clock = clock
        self._unauthenticated = unauthenticated

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request to `/mcp` or `/mcp/{server}`; the path is in `scope["agentgw.server"]`."""
        door = self.door
        server: str | None = scope["agentgw.server"]
        task = asyncio.current_task()
        scope["agentgw.task"] = task
        event_id: str | None = None
        caller: Caller | None = None
        try:
            headers = headers_of(scope)
            caller = await self._caller(door, scope, headers, server)
            event_id = self._gateway.here.journal.new_id()
            if server is not None and (
                server not in door.servers or not door.may_reach(caller, server)
            ):
                raise RefusedRequest(404, "there is no such server")
            incoming = await self._incoming(door, scope, receive, headers, caller, server, event_id)
            try:
                answer = await self._answer(incoming)
            finally:
                if incoming.message.size >= LARGE_REQUEST:
                    asyncio.get_running_loop().run_in_executor(None, _empty, incoming.message)
            if answer.stream is not None:
                incoming = incoming.without_content()
                headers.clear()
                scope["headers"].clear()
            await self._write(scope, send, door, incoming, answer)
        except InvalidToken as error:
            self._unauthenticated(source_of(scope, door.trusted_proxies), "/mcp")
            await self._challenge(scope, send, door, server, error)
        except MalformedMessage as error:
            body = error_body(error.request_id, error.code, str(error), error.data)
            await self._note(scope, caller, event_id, error.status, error.code)
            await respond(scope, send, error.status, JSON, body, event_id)
        except RefusedRequest as error:
            body = error.text.encode("utf-8", "replace") + b"\n"
            extra = b"allow: POST\r\n" if error.status == 405 else b""
            await self._note(scope, caller, event_id, error.status)
            await respond(
                scope, send, error.status, b"text/plain; charset=utf-8", body, event_id, extra
            )
        except Unavailable as error:
            _log.error("refused a request: %s", error)
            await respond(
                scope, send, 503, JSON, error_body(None, UNAVAILABLE, "unavailable"), event_id
            )
        except Exception:
            _log.exception("failed on a request; event %s", event_id)
            body = error_body(None, INTERNAL_ERROR, "the gateway failed on this request")
            await respond(scope, send, 500, JSON, body, event_id)
        except asyncio.CancelledError:
            # The agent is gone, or cancelled its own request: an empty stream says that nothing follows.
            if task is not None:
                task.uncancel()
            await respond(scope, send, 200, EVENT_STREAM, b"", event_id)

    async def _note(
        self,
        scope: Scope,
        caller: Caller | None,
        event_id: str | None,
        status: int,
        code: int | None = None,
    ) -> None:
        """Record a refusal of an authenticated caller that no story came to tell."""
        if caller is None or event_id is None:
            return
        try:
            await self._gateway.here.journal.note(
                "mcp/refused",
                caller,
                event_id=event_id,
                server=scope["agentgw.server"],
                source=source_of(scope, self.door.trusted_proxies),
                detail={"status": status} if code is None else {"status": status, "code": code},
                reason="bad_request",
            )
        except Unavailable as error:
            _log.error("a refusal went unrecorded: %s", error)
        except asyncio.CancelledError:
            # The agent is gone; the record is on its way all the same.
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()

    async def _caller(
        self, door: Door, scope: Scope, headers: dict[bytes, bytes], server: str | None
    ) -> Caller:
        token = bearer(headers)
        by_dpop = token is None
        if token is None and (token := dpop_token(headers)) is None:
            raise _NoCredentials
        now = self._clock()
        caller = door.authenticator.lookup(token, now)
        if caller is None:
            caller = await door.authenticator.authenticate(token, now)
        if caller.binding is not None or by_dpop:
            await door.possession.check(caller.binding, scope, token, by_dpop, now)
        if door.presence is not None:
            door.presence.check(caller, scope)
        if not admits(caller, door.public_url, server):
            raise InvalidToken("the token is meant for another resource")
        hand_over = headers.get(SUBJECT_TOKEN)
        if hand_over is None:
            return caller
        source = source_of(scope, door.trusted_proxies)
        user_agent = user_agent_of(scope)
        return await door.one_request.caller(caller, hand_over, server, source, user_agent)

    async def _incoming(
        self,
        door: Door,
        scope: Scope,
        receive: Receive,
        headers: dict[bytes, bytes],
        caller: Caller,
        server: str | None,
        event_id: str,
    ) -> Incoming:
        version = text(headers, b"mcp-protocol-version")
        is_handshake = handshake.is_handshake(version)
        if scope["method"] != "POST":
            if not is_handshake or scope["method"] not in ("GET", "DELETE"):
                raise RefusedRequest(405, "this path takes POST")
            method = OPEN_STREAM if scope["method"] == "GET" else END_SESSION
            message = Message("request", None, method, {}, {"method": method})
        else:
            check_body_headers(headers, door.body_limit)
            body = body_at_once(scope)
            if body is None:
                body = await read_body(receive, door.body_limit, door.body_deadline)
            elif len(body) > door.body_limit:
                raise too_large(door.body_limit)
            if len(body) < LARGE_REQUEST:
                message = read_message(headers, body, door.json_depth)
            else:
                message = await asyncio.to_thread(read_message, headers, body, door.json_depth)
        try:
            session = self._check(message, headers, caller, server, version)
        except MalformedMessage as error:
            error.request_id = message.id
            raise
        return Incoming(
            caller,
            message,
            server,
            "handshake" if is_handshake else "modern",
            handshake.check_version(version) if is_handshake else modern.VERSION,
            event_id,
            source_of(scope, door.trusted_proxies),
            client_of(message, headers),
            trace_of(message, headers),
            session,
            text(headers, b"last-event-id"),
            (bearer(headers) or dpop_token(headers)) if server in door.keeps_token else None,
        )

    def _check(
        self,
        message: Message,
        headers: dict[bytes, bytes],
        caller: Caller,
        server: str | None,
        version: str | None,
    ) -> AgentSession | None:
        """Hold headers and body together by the rules of the era; the session a handshake agent names."""
        if version is None or handshake.is_handshake(version):
            handshake.check_version(version)
            sealed = text(headers, b"mcp-session-id")
            if sealed is not None and message.method != "initialize":
                return self._open_session(sealed, caller, server)
        elif message.kind == "response":
            raise MalformedMessage(
                400, INVALID_REQUEST, "a client sends no responses in this revision"
            )
        else:
            modern.check_request(
                message, version, text(headers, b"mcp-method"), text(headers, b"mcp-name")
            )
        return None

    def _open_session(self, sealed: str, caller: Caller, server: str | None) -> AgentSession:
        session = self._seal.open(sealed, caller, server, self._clock())
        if session is None:
            raise RefusedRequest(404, "there is no such session; open a new one with initialize")
        return session

    def _answer(self, incoming: Incoming) -> Awaitable[Answer]:
        if incoming.message.method in (OPEN_STREAM, END_SESSION):
            return self._answer_bodiless(incoming)
        return self._switchboard.handle(incoming)

    async def _answer_bodiless(self, incoming: Incoming) -> Answer:
        session = incoming.session
        if session is None or not session.relayed:
            status = 200 if session is not None and incoming.message.method == END_SESSION else 405
            return Answer(status)
        answer = await self._gateway.call(incoming)
        return Answer(403) if answer.refused and answer.status == 200 else answer

    def _write(
        self, scope: Scope, send: Send, door: Door, incoming: Incoming, answer: Answer
    ) -> Awaitable[None]:
        extra = b""
        if answer.session is not None:
            sealed = self._seal.seal(
                answer.session, incoming.caller, incoming.server, self._clock()
            )
            extra = b"mcp-session-id: " + sealed.encode("ascii") + b"\r\n"
        if incoming.caller.binding is not None:
            nonce = door.possession.nonce(self._clock())
            extra += b"" if nonce is None else b"dpop-nonce: " + nonce.encode("ascii") + b"\r\n"
        if answer.challenge is not None:
            scopes = " ".join(filter(_SCOPE.fullmatch, answer.challenge.split(" ")))
            parts = [
                f'error="insufficient_scope", scope="{scopes}"',
                door.metadata(incoming.server),
            ]
            challenge = "Bearer " + ", ".join(filter(None, parts))
            extra += b"www-authenticate: " + challenge.encode("latin-1") + b"\r\n"
        if answer.retry_after is not None:
            extra += b"retry-after: %d\r\n" % answer.retry_after
        if answer.status == 405:
            extra += b"allow: POST\r\n"
        if answer.assurance is not None:
            extra += ASSURED[answer.assurance]
        if answer.stream is not None:
            return stream_out(scope, send, answer.stream, incoming.event_id, extra)
        content_type = answer.content_type if answer.body else b""
        return respond(
            scope, send, answer.status, content_type, answer.body, incoming.event_id, extra
        )

    async def _challenge(
        self,
        scope: Scope,
        send: Send,
        door: Door,
        server: str | None,
        error: InvalidToken,
    ) -> None:
        """401 with the way to a token (RFC 6750 section 3, RFC 9449 section 7.1, RFC 9728 section 5.1)."""
        parts = []
        scheme, code, extra = door.possession.challenge(scope, error, self._clock())
        body: dict[str, Any] = {"error": "unauthorized", "error_description": "no credentials"}
        if error is not _NoCredentials:
            parts.append(f'error="{code}"')
            parts.append(f'error_description="{quotable(error.reason)}"')
            body = {"error": code, "error_description": quotable(error.reason)}
        wanted = door.challenge_scope(server)
        if wanted:
            parts.append(f'scope="{wanted}"')
        parts.append(door.metadata(server))
        challenge = (scheme + ", ".join(filter(None, parts))).rstrip().encode("latin-1")
        lines = b"www-authenticate: " + challenge + b"\r\n" + extra
        await respond(scope, send, 401, JSON, encode(body), None, lines)


def _empty(message: Message) -> None:
    """Let go of what a message carried: freeing that many values takes long too."""
    message.params.clear()
    message.document.clear()


_NoCredentials = InvalidToken("there is no Authorization header")
