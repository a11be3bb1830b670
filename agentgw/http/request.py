"""The HTTP side of one MCP request: headers looked up strictly, body read within its limits."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, MutableMapping
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

from agentgw.errors import CallerError, InvalidToken
from agentgw.mcp import modern
from agentgw.mcp.message import Message

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Networks = tuple[IPv4Network | IPv6Network, ...]

_SCHEME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SINGLE = frozenset(
    {
        b"authorization",
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
_JWT = re.compile(r"eyJ[\w-]{7,}\.[\w.-]*")
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")


class RefusedRequest(CallerError):
    """An HTTP request refused before it became a message; `status` is the answer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """The headers by lower-case name. Raises RefusedRequest where one that decides stands twice."""
    lines = scope["headers"]
    headers = dict(lines)
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
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    if _SCHEME.fullmatch(scheme) and scheme.lower() != b"bearer":
        return None
    if b"authorization" not in headers:
        return None
    token = token.strip(b" ")
    if scheme.lower() != b"bearer" or not token or b" " in token or b"," in token:
        raise InvalidToken("the Authorization header holds no bearer token")
    return token


def text(headers: dict[bytes, bytes], name: bytes) -> str | None:
    """A header as text, None where it is absent."""
    value = headers.get(name)
    return None if value is None else value.decode("latin-1")


def check_body_headers(headers: dict[bytes, bytes], limit: int) -> None:
    """Refuse what is no plain JSON body of an acceptable size. Raises RefusedRequest."""
    media_type = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
    if media_type != b"application/json":
        raise RefusedRequest(415, "the body must be application/json")
    if headers.get(b"content-encoding", b"identity").strip().lower() != b"identity":
        raise RefusedRequest(415, "the body must not be compressed")
    length = headers.get(b"content-length")
    if length is not None and length.isdigit() and int(length[:12]) > limit:
        raise too_large(limit)


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
        name = "/".join(word[:256] if isinstance(word, str) else "-" for word in words)
    else:
        name = text(headers, b"user-agent") or ""
    return _clean(name[:512]) or None


@lru_cache(maxsize=1024)
def _clean(name: str) -> str:
    """Fit to be written down: short, printable, and no token."""
    return _UNPRINTABLE.sub("?", _JWT.sub("[token]", name)[:120])


def trace_of(message: Message, headers: dict[bytes, bytes]) -> str | None:
    """The trace id a request says it belongs to (W3C Trace Context)."""
    parent = message.meta.get("traceparent") or text(headers, b"traceparent")
    found = _TRACEPARENT.fullmatch(parent) if isinstance(parent, str) else None
    return found.group(1) if found is not None else None
