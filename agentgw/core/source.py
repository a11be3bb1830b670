"""Who counts as one source, where strangers are counted."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network, ip_address


def one_source(address: str) -> str:
    """`address` itself, and the /64 of an IPv6 one: whoever has one address of it has them all (RFC 6177).

    What is no address is one source by that name.
    """
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(found, IPv6Address) or found.ipv4_mapped is not None:
        return address
    return str(IPv6Network((int(found) >> 64 << 64, 64)))
