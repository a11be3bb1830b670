"""The HTTP side of one MCP request: headers looked up strictly, body read within its limits."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, MutableMapping
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, Protocol

from agentgw.errors import CallerError, InvalidToken
from agentgw.gateway.incoming import JSON
from agentgw.mcp import modern
from agentgw.mcp.message import Message, parse_message
from agentgw.mcp.spelling import SHORTEST_SECRET, respelled

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Networks = tuple[IPv4Network | IPv6Network, ...]


class CountRefusal(Protocol):
    """Told of each refusal of somebody who proved nothing: whence, at which path of ours, and as which
    client they came by their own word."""

    def __call__(self, source: str | None, at: str, claimed: str | None = None) -> None: ...


_SCHEME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SINGLE = frozenset(
    {
        b"authorization",
        b"agentgw-subject-token",
        b"host",
        b"origin",
        b"content-type",
        b"content-length",
        b"mcp-protocol-version",
        b"mcp-method",
        b"mcp-name",
        b"mcp-session-id",
        b"last-event-id",
    }
)


_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_JWT = re.compile(r"eyJ[\w-]{7,}\.[\w.-]*|agk_[\w-]{20,}")
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")


class RefusedRequest(CallerError):
    """An HTTP request refused before it became a message; `status` is the answer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


def by_name(scope: Scope) -> dict[bytes, bytes]:
    """The headers by lower-case name, made once per request; of those that stand twice the last."""
    headers: dict[bytes, bytes] | None = scope.get("agentgw.headers")
    if headers is None:
        headers = scope["agentgw.headers"] = dict(scope["headers"])
    return headers


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """The headers by lower-case name. Raises RefusedRequest where one that decides stands twice."""
    lines = scope["headers"]
    headers = by_name(scope)
    if len(headers) != len(lines):
        seen: set[bytes] = set()
        for name, _ in lines:
            if name in seen and name in _SINGLE:
                raise RefusedRequest(
                    400, f"the {name.decode('ascii', 'replace')} header stands twice"
                )
            seen.add(name)
    return headers


def bearer(headers: dict[bytes, bytes]) -> bytes | None:
    """The bearer token of the Authorization header (RFC 6750 section 2.1).

    None without one, and for another scheme: that is no attempt of the kind we know (section 3.1).
    """
    value = headers.get(b"authorization")
    if value is None:
        return None
    scheme, _, token = value.partition(b" ")
    is_bearer = scheme.lower() == b"bearer"
    if not is_bearer and _SCHEME.fullmatch(scheme):
        return None
    token = token.strip(b" ")
    if not is_bearer or not token or b" " in token or b"," in token:
        raise InvalidToken("the Authorization header holds no bearer token")
    return token


def text(headers: dict[bytes, bytes], name: bytes) -> str | None:
    """A header as text, None where it is absent."""
    value = headers.get(name)
    return None if value is None else value.decode("latin-1")


def check_body_headers(headers: dict[bytes, bytes], limit: int) -> None:
    """Refuse what is no plain JSON body of an acceptable size. Raises RefusedRequest."""
    media_type = headers.get(b"content-type", b"")
    if media_type != JSON and media_type.split(b";")[0].strip().lower() != JSON:
        raise RefusedRequest(415, "the body must be application/json")
    coding = headers.get(b"content-encoding")
    if coding is not None and coding.strip().lower() != b"identity":
        raise RefusedRequest(415, "the body must not be compressed")
    length = headers.get(b"content-length")
    if length is not None and length.isdigit() and int(length[:12]) > limit:
        raise too_large(limit)


def check_carries_no_token(headers: dict[bytes, bytes], body: bytes) -> None:
    """Refuse a body that holds a token which its own request shows: what is in a body may go to a tool
    server, as an argument or in `_meta`. Raises RefusedRequest."""
    for name in (b"authorization", b"agentgw-subject-token"):
        value = headers.get(name)
        if value is None:
            continue
        token = value.rpartition(b" ")[2]
        if len(token) >= SHORTEST_SECRET and token in body:
            raise RefusedRequest(
                400, "the body holds the token of its own request, which must reach no tool server"
            )


def read_message(headers: dict[bytes, bytes], body: bytes, max_depth: int) -> Message:
    """The message of a body that holds no token of its own request, however that is written.

    Raises RefusedRequest, or MalformedMessage as `parse_message` does.
    """
    check_carries_no_token(headers, body)
    message = parse_message(body, max_depth)
    again = respelled(body, message.document)
    if again is not None:
        check_carries_no_token(headers, again)
    return message


async def read_body(receive: Receive, limit: int, deadline: float) -> bytes:
    """The whole body. Raises RefusedRequest over `limit` bytes or `deadline` seconds."""
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(deadline):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise asyncio.CancelledError
                chunks.append(message.get("body", b""))
                size += len(chunks[-1])
                if size > limit:
                    raise too_large(limit)
                if not message.get("more_body", False):
                    return b"".join(chunks)
    except TimeoutError:
        raise RefusedRequest(408, f"the body took longer than {deadline:g} s") from None


def too_large(limit: int) -> RefusedRequest:
    """The refusal of a body over `limit` bytes."""
    return RefusedRequest(413, f"the body is larger than {limit} bytes")


def source_of(scope: Scope, proxies: Networks = ()) -> str | None:
    """The address a request came from, None on a unix socket.

    Where that is one of `proxies`, the last address of X-Forwarded-For that is none of them; what stands
    left of that one anybody may have written.
    """
    client = scope.get("client")
    if client is None or not proxies:
        return None if client is None else str(client[0])
    return _forwarded_for(str(client[0]), scope["headers"], proxies)


def comes_from(scope: Scope, proxies: Networks) -> bool:
    """Whether the peer of the connection is one of `proxies`; nobody on a unix socket is."""
    client = scope.get("client")
    if client is None or not proxies:
        return False
    address = _address(str(client[0]))
    return address is not None and _is_proxy(address, proxies)


def _forwarded_for(peer: str, headers: list[tuple[bytes, bytes]], proxies: Networks) -> str:
    address = _address(peer)
    if address is None or not _is_proxy(address, proxies):
        return peer
    lines = [value for name, value in headers if name == b"x-forwarded-for"]
    for word in reversed(b",".join(lines).split(b",")):
        address = _address(word.strip(b" \t").decode("latin-1"))
        if address is None:
            break
        if not _is_proxy(address, proxies):
            return str(address)
    return peer


def _address(word: str) -> IPv4Address | IPv6Address | None:
    """The address without its zone, which may hold anything; an IPv4 one in IPv6 as what it is."""
    try:
        address = ip_address(word.partition("%")[0])
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def _is_proxy(address: IPv4Address | IPv6Address, proxies: Networks) -> bool:
    return any(address in network for network in proxies)


def client_of(message: Message, headers: dict[bytes, bytes]) -> str | None:
    """The agent's own word about its software; never believed, only written down."""
    info = message.params.get("clientInfo") or message.meta.get(modern.META_CLIENT_INFO)
    if isinstance(info, dict):
        words = (info.get("name"), info.get("version"))
        name = "/".join([word[:256] if isinstance(word, str) else "-" for word in words])
    else:
        name = text(headers, b"user-agent") or ""
    return _clean(name[:512]) or None


def user_agent_of(scope: Scope) -> str | None:
    """The same of a request that is no message."""
    return _clean((text(by_name(scope), b"user-agent") or "")[:512]) or None


@lru_cache(maxsize=1024)
def _clean(name: str) -> str:
    """Fit to be written down: short, printable, and no token."""
    return _UNPRINTABLE.sub("?", _JWT.sub("[token]", name)[:120])


def trace_of(message: Message, headers: dict[bytes, bytes]) -> str | None:
    """The trace id a request says it belongs to (W3C Trace Context)."""
    parent = message.meta.get("traceparent") or text(headers, b"traceparent")
    found = _TRACEPARENT.fullmatch(parent) if isinstance(parent, str) else None
    return found.group(1) if found is not None else None
