"""Headers that say one thing and a body that says another (2026-07-28): nobody may be told two stories."""

from __future__ import annotations

import base64

import pytest

from tests.door import Door
from tests.harness import modern_call, modern_message


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Mcp-Method", "tools/list"), ("Mcp-Method", "Tools/call"), ("Mcp-Method", None),
        ("Mcp-Name", "other__echo"), ("Mcp-Name", "TIME__ECHO"), ("Mcp-Name", None),
        ("Mcp-Name", "time__echo, other__echo"), ("Mcp-Name", "=?base64?!!!?="),
        ("Mcp-Name", "=?base64?b3RoZXJfX2VjaG8=?="), ("Mcp-Name", ""),
        ("MCP-Protocol-Version", "2027-01-01"),
    ],
)  # fmt: skip
def test_refuses_a_header_that_differs_from_the_body(
    door: Door, header: str, value: str | None
) -> None:
    with door.untouched():
        if value is None:
            answer = door.post(modern_call("time__echo", {}), drop=(header,))
        else:
            answer = door.post(modern_call("time__echo", {}), {header: value})
        assert (answer.status, answer.code) == (400, -32020)


def test_takes_a_mirrored_name_in_base64_or_with_white_space_around(door: Door) -> None:
    encoded = base64.b64encode(b"time__echo").decode()
    for value in (f"=?base64?{encoded}?=", "  time__echo\t"):
        assert door.post(modern_call("time__echo", {}), {"Mcp-Name": value}).status == 200


@pytest.mark.parametrize(
    ("method", "params", "name"),
    [
        ("prompts/get", {"name": "denied"}, "allowed"),
        ("resources/read", {"uri": "file:///denied"}, "file:///allowed"),
        ("tasks/get", {"taskId": "theirs"}, "mine"),
        ("tasks/cancel", {"taskId": "theirs"}, "mine"),
        ("tools/call", {"name": "\u0435cho"}, "echo"),
        ("tools/call", {}, "echo"),
    ],
)
def test_every_method_that_bears_a_name_is_held_to_it(
    door: Door, method: str, params: dict[str, str], name: str
) -> None:
    with door.untouched():
        message = modern_message(method, params)
        answer = door.post(message, {"Mcp-Name": name}, path="/mcp/time")
        assert (answer.status, answer.code) == (400, -32020)


def test_raw_bytes_beyond_ascii_are_no_name(door: Door) -> None:
    with door.untouched():
        message = modern_call("time__\u00e9cho", {})
        for raw in ("time__\u00e9cho", "time__\u00c3\u00a9cho"):
            assert door.post(message, {"Mcp-Name": raw}).code == -32020


def test_headers_of_one_revision_do_not_pass_with_another(door: Door) -> None:
    with door.untouched():
        message = modern_call("time__echo", {})
        message["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] = "2025-11-25"
        assert door.post(message).code == -32020
        for version in ("2024-11-05", "1.0", ""):
            answer = door.post(modern_call("time__echo", {}), {"MCP-Protocol-Version": version})
            assert answer.status == 400
