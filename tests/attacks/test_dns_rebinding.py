"""A web page in the victim's browser that reaches us under a name of its own (DNS rebinding, CSRF)."""

from __future__ import annotations

import pytest

from tests.door import Door
from tests.harness import modern_call


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "127.0.0.1", "localhost", "127.0.0.1:{port}.evil.example", "a/?x=",
        "evil.example@127.0.0.1:{port}", "127.0.0.1:{port}, evil.example", "", "[::1]:{port}",
        "127.0.0.1:{port}.",
    ],
)  # fmt: skip
def test_refuses_a_foreign_host(door: Door, host: str) -> None:
    with door.untouched():
        value = host.replace("{port}", str(door.port))
        assert door.post(modern_call("time__echo", {}), {"Host": value}).status in (400, 421)
        assert door.request("GET", "/livez", {"Host": value}).status in (400, 421)


@pytest.mark.parametrize(
    "origin",
    ["null", "http://evil.example", "", "http://127.0.0.1", "{url}.evil.example", "{url}/"],
)
def test_refuses_a_foreign_origin(door: Door, origin: str) -> None:
    with door.untouched():
        value = {"Origin": origin.replace("{url}", door.gw.url)}
        answer = door.post(modern_call("time__echo", {}), value)
        assert answer.status == 403
        assert "access-control-allow-origin" not in answer.headers


def test_accepts_its_own_origin(door: Door) -> None:
    answer = door.post(modern_call("time__echo", {}), {"Origin": door.gw.url})
    assert answer.status == 200


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_refuses_what_a_page_may_post_without_asking(door: Door, content_type: str) -> None:
    with door.untouched():
        answer = door.post(modern_call("time__echo", {}), {"Content-Type": content_type})
        assert answer.status == 415


def test_grants_no_page_a_preflight(door: Door) -> None:
    with door.untouched():
        asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
        for path in ("/mcp", "/mcp/time", "/oauth/token"):
            answer = door.request("OPTIONS", path, asked)
            assert answer.status == 403
            assert not any(name.startswith("access-control-") for name in answer.headers)


def test_two_hosts_are_refused(door: Door) -> None:
    with door.untouched():
        other = {"Host": f"127.0.0.1:{door.port}", "host": "evil.example"}
        assert door.post(modern_call("time__echo", {}), other).status == 400
