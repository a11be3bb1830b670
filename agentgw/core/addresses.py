"""Where a URL that somebody else named may lead: to public addresses, and to those the operator lists.

Agents, tool servers and authorization servers name URLs that we then ask. None of them may make us reach
what only we can reach: this host, its neighbours, the cloud's metadata (server-side request forgery).
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

NAT64 = IPv6Network("64:ff9b::/96")
"""The well-known prefix under which a network with NAT64 shows IPv4 hosts (RFC 6052)."""

_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NEVER: tuple[Network, ...] = tuple(
    ip_network(text)
    for text in (
        "168.63.129.16/32",  # Azure's host, at a public address
        "192.0.0.0/24",
        "192.88.99.0/24",  # relays of 6to4 (RFC 7526)
        "2001::/23",  # Teredo, ORCHID, benchmarking and their kin (RFC 2928)
        "2001:db8::/32",
        "2002::/16",  # 6to4: an IPv4 address inside (RFC 3056)
        "3fff::/20",  # documentation (RFC 9637)
    )
)
URL_LIMIT = 2048


def refused_address(address: Address, allowed: Collection[Network]) -> str | None:
    """Why `address` may not be connected to, None where it may.

    `allowed` are networks that the operator lists: whatever lies in them may. An IPv4 address inside an
    IPv6 one is refused, but under a listed NAT64 prefix, where it is judged itself.
    """
    if isinstance(address, IPv6Address) and address in NAT64 and NAT64 in allowed:
        return refused_address(IPv4Address(int(address) & 0xFFFFFFFF), allowed)
    if any(address.version == network.version and address in network for network in allowed):
        return None
    if isinstance(address, IPv6Address) and (
        address.scope_id is not None or address not in _GLOBAL_UNICAST
    ):
        return "it is no public IPv6 address"
    if not address.is_global or address.is_multicast:
        return "it is no public address"
    if any(address.version == network.version and address in network for network in _NEVER):
        return "it is an address of infrastructure"
    return None


def names_loopback(url: str) -> bool:
    """Whether the host of a URL is this machine by its own name: localhost, or a loopback address."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or host.endswith(".localhost") or ip_address(host).is_loopback
    except ValueError:
        return False


def refused_url(url: str, plain_http: bool = False) -> str | None:
    """Why a URL may not be asked, whatever it leads to; None where its form is right.

    Only https, and http where `plain_http`; no user name, no fragment, no host that readers take apart
    in different ways. Where its host leads is judged when it is resolved.
    """
    if len(url) > URL_LIMIT or not url.isascii() or not url.isprintable() or " " in url:
        return f"a URL is at most {URL_LIMIT} visible ASCII characters"
    if "\\" in url:
        return "a backslash has no place in a URL"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "it is no URL"
    if parts.scheme != "https" and not (plain_http and parts.scheme == "http"):
        return "its scheme is not https"
    if "@" in parts.netloc or "#" in url:
        return "it has a user name or a fragment"
    if not host or "%" in parts.netloc or host.endswith(".") or port == 0:
        return "its host cannot be read in one way only"
    return None
