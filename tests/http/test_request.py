"""Where a request came from: the connection says it, and only proxies we trust may say more."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import httpx2
import pytest

from agentgw.http.request import source_of
from tests.door import door as open_door
from tests.harness import modern_call

PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


@pytest.mark.parametrize(
    ("peer", "lines", "source"),
    [
        ("10.0.0.1", ["203.0.113.7"], "203.0.113.7"),
        ("fd00::1", ["203.0.113.7"], "203.0.113.7"),
        ("::ffff:10.0.0.1", ["::ffff:203.0.113.7"], "203.0.113.7"),
        ("10.0.0.1", ["2001:DB8::7"], "2001:db8::7"),
        ("10.0.0.1", ["198.51.100.9, 203.0.113.7 ,10.0.0.2"], "203.0.113.7"),
        ("10.0.0.1", ["198.51.100.9", "203.0.113.7", "10.0.0.2, fd00::3"], "203.0.113.7"),
        ("10.0.0.1", ["not an address, 203.0.113.7"], "203.0.113.7"),
        ("10.0.0.1", ["203.0.113.7, not an address"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.7, not an address, 10.0.0.2"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.7:443"], "10.0.0.1"),
        ("10.0.0.1", ["fe80::1%\x1b[2J"], "fe80::1"),
        ("10.0.0.1", ["203.0.113.7,"], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("198.51.100.9", ["203.0.113.7"], "198.51.100.9"),
        ("nobody", ["203.0.113.7"], "nobody"),
    ],
)
def test_the_source_is_the_last_address_that_is_no_proxy_of_ours(
    peer: str, lines: list[str], source: str
) -> None:
    headers = [(b"x-forwarded-for", line.encode("latin-1")) for line in lines]
    scope = {"client": (peer, 1), "headers": [(b"x-real-ip", b"192.0.2.1"), *headers]}
    assert source_of(scope, PROXIES) == source
    assert source_of(scope) == peer


def test_a_unix_socket_has_no_source_whatever_a_header_says() -> None:
    scope = {"client": None, "headers": [(b"x-forwarded-for", b"203.0.113.7")]}
    assert source_of(scope, PROXIES) is source_of(scope) is None


def test_records_name_who_is_behind_a_trusted_proxy_at_every_face(tmp_path: Path) -> None:
    forged = {"X-Forwarded-For": "192.0.2.1, 203.0.113.7", "X-Forwarded-Host": "evil.example"}
    with open_door(tmp_path, trusted_proxies=["127.0.0.1/32"]) as door:
        assert door.post(modern_call("time__echo", {}), forged).status == 200
        assert door.post(modern_call("time__echo", {}), forged, token="wrong").status == 401
        wrong = {"grant_type": "x"}
        auth = ("planner", "planner-secret-for-tests")
        url = f"{door.gw.url}/oauth/token"
        assert httpx2.post(url, data=wrong, auth=auth, headers=forged, trust_env=False).is_error
        assert door.gw.stop() == 0
        sources = {
            record["method"]: record["source"] for record in door.gw.records() if "source" in record
        }
        assert sources["tools/call"] == sources["oauth/token"] == "203.0.113.7"
        assert set(sources.values()) <= {"203.0.113.7", None}
