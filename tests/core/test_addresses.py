"""Which addresses a URL named by others may lead to, and which forms of URL are none."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgw.core.addresses import NAT64, refused_address, refused_url

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
PRIVATE = st.sampled_from(["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8"]).flatmap(
    lambda text: st.ip_addresses(network=text)
)


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1", "127.255.0.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254",
        "100.64.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192", "192.0.2.1", "198.18.0.1",
        "203.0.113.9", "192.88.99.1", "224.0.0.1", "239.1.2.3", "240.0.0.1", "255.255.255.255",
        "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:127.0.0.1",
        "64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1",
        "2002:7f00:1::", "2002:808:808::", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1",
        "fe80::1%eth0", "fec0::1", "ff02::1", "2606:4700::1111%1",
    ],
)  # fmt: skip
def test_what_is_not_public_is_refused(text: str) -> None:
    assert refused_address(ip_address(text), ()) is not None


@pytest.mark.parametrize("text", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "2a00:1450::5"])
def test_what_is_public_may_be_asked(text: str) -> None:
    assert refused_address(ip_address(text), ()) is None


def test_a_listed_network_may_be_asked_and_no_other() -> None:
    allowed = (ip_network("10.1.0.0/16"), ip_network("fd00:1::/32"))
    for text in ("10.1.2.3", "fd00:1::9", "8.8.8.8"):
        assert refused_address(ip_address(text), allowed) is None
    for text in ("10.2.0.1", "fd00:2::1", "127.0.0.1", "::ffff:10.1.2.3", "64:ff9b::a01:203"):
        assert refused_address(ip_address(text), allowed) is not None


@given(PRIVATE)
def test_an_address_inside_another_is_never_a_way_round(inner: IPv4Address) -> None:
    number = int(inner)
    for outer in (
        number,
        int(IPv6Address("::ffff:0:0")) | number,
        int(NAT64.network_address) | number,
        int(IPv6Address("2002::")) | number << 80,
    ):
        assert refused_address(IPv6Address(outer), ()) is not None


@given(st.ip_addresses(v=4))
def test_under_a_listed_nat64_prefix_the_address_inside_is_judged(inner: IPv4Address) -> None:
    outer = IPv6Address(int(NAT64.network_address) | int(inner))
    allowed = (NAT64,)
    assert (refused_address(outer, allowed) is None) == (refused_address(inner, allowed) is None)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/", "ftp://example.com/", "file:///etc/passwd", "https://", "https:///x",
        "https://a@example.com/", "https://a:b@example.com/", "https://@example.com/",
        "https://example.com/#x", "https://example.com./", "https://exa%6dple.com/",
        "https://[fe80::1%25eth0]/", "https://example.com:0/", "https://example.com:99999/",
        "https://example.com\\@127.0.0.1/", "https://ex ample.com/", "https://example.com/\n",
        "https://\u24d4xample.com/", "//example.com/", "javascript:alert(1)", "https://[::1/",
        "https://example.com/" + "x" * 2048,
    ],
)  # fmt: skip
def test_what_can_be_read_in_two_ways_is_no_url(url: str) -> None:
    assert refused_url(url) is not None


def test_plain_http_is_for_those_who_ask_for_it() -> None:
    assert refused_url("https://example.com:8443/x?y=1") is None
    assert refused_url("http://127.0.0.1:8080/", plain_http=True) is None
    assert refused_url("http://127.0.0.1:8080/") is not None
    assert refused_address(ip_address("127.0.0.1"), LOOPBACK) is None
