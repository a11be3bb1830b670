"""What may be said at the door: JSON, envelopes, mirrored headers, revisions, ids, arguments."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tests.door import Door
from tests.harness import modern_call, modern_message

GOOD = json.dumps(modern_call("time__echo", {"text": "x"}))


def arguments(text: str) -> bytes:
    """The honest call with these very bytes as its arguments."""
    return GOOD.replace('{"text": "x"}', text).encode()


MALFORMED: dict[str, tuple[bytes, int]] = {
    "empty": (b"", -32700),
    "white space": (b"  \n", -32700),
    "not JSON": (b"tools/call", -32700),
    "cut": (GOOD[:-1].encode(), -32700),
    "two messages": ((GOOD + GOOD).encode(), -32700),
    "trailing comma": (GOOD[:-1].encode() + b",}", -32700),
    "BOM": (b"\xef\xbb\xbf" + GOOD.encode(), -32700),
    "UTF-16": (GOOD.encode("utf-16"), -32700),
    "UTF-16 without BOM": (GOOD.encode("utf-16-le"), -32700),
    "UTF-32": (GOOD.encode("utf-32"), -32700),
    "invalid UTF-8": (GOOD.encode().replace(b'"x"', b'"\xff\xfe"'), -32700),
    "overlong UTF-8": (GOOD.encode().replace(b'"x"', b'"\xc0\xaf"'), -32700),
    "UTF-8 surrogate": (GOOD.encode().replace(b'"x"', b'"\xed\xa0\x80"'), -32700),
    "raw control character": (GOOD.encode().replace(b'"x"', b'"\x00"'), -32700),
    "NaN": (arguments('{"text": NaN}'), -32700),
    "Infinity": (arguments('{"text": Infinity}'), -32700),
    "minus Infinity": (arguments('{"text": -Infinity}'), -32700),
    "a number beyond any float": (arguments('{"text": 1e999}'), -32700),
    "an integer of 100,000 digits": (arguments('{"text": ' + "9" * 100_000 + "}"), -32700),
    "duplicate member": (GOOD[:-1].encode() + b', "method": "tools/call"}', -32700),
    "duplicate name": (
        GOOD.replace('"name": "time__echo"', '"name": "time__echo", "name": "x"').encode(),
        -32700,
    ),
    "duplicate by escape": (arguments('{"text": 1, "te\\u0078t": 2}'), -32700),
    "nested too deep": (arguments('{"text": ' + "[" * 65 + "]" * 65 + "}"), -32700),
    "nested 100,000 deep": (b"[" * 100_000, -32700),
    "nested 100,000 objects": (b'{"a":' * 100_000, -32700),
    "batch": (f"[{GOOD}]".encode(), -32600),
    "empty batch": (b"[]", -32600),
    "a string": (b'"tools/call"', -32600),
    "null": (b"null", -32600),
    "no jsonrpc": (b'{"id": 1, "method": "ping"}', -32600),
    "jsonrpc 1.0": (b'{"jsonrpc": "1.0", "id": 1, "method": "ping"}', -32600),
    "jsonrpc number": (b'{"jsonrpc": 2.0, "id": 1, "method": "ping"}', -32600),
    "method number": (b'{"jsonrpc": "2.0", "id": 1, "method": 1}', -32600),
    "method with CRLF": (b'{"jsonrpc": "2.0", "id": 1, "method": "a\\r\\nX: y"}', -32600),
    "method empty": (b'{"jsonrpc": "2.0", "id": 1, "method": ""}', -32600),
    "params list": (b'{"jsonrpc": "2.0", "id": 1, "method": "ping", "params": []}', -32602),
    "params null": (b'{"jsonrpc": "2.0", "id": 1, "method": "ping", "params": null}', -32602),
    "request and result": (GOOD[:-1].encode() + b', "result": {}}', -32600),
    "case variant": (GOOD[:-1].encode() + b', "Method": "ping"}', -32600),
    "case variant of name": (
        GOOD.replace('"name"', '"Name": "other__echo", "name"').encode(),
        -32600,
    ),
    "long s": (GOOD[:-1].encode() + ', "re\u017fult": {}}'.encode(), -32600),
    "NUL variant": (GOOD[:-1].encode() + b', "method\\u0000": "ping"}', -32600),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_refuses_malformed_json_and_envelopes(door: Door, kind: str) -> None:
    body, code = MALFORMED[kind]
    with door.untouched():
        answer = door.post(body)
        assert (answer.status, answer.code) == (400, code)


@pytest.mark.parametrize(
    "request_id",
    ["null", "1.0", "1.5", "true", "false", "[]", "{}", "9007199254740993", '"\\ud800"'],
)
def test_refuses_an_id_that_json_rpc_or_mcp_does_not_allow(door: Door, request_id: str) -> None:
    with door.untouched():
        answer = door.post(GOOD.replace('"id": 1', f'"id": {request_id}').encode())
        assert (answer.status, answer.code) == (400, -32600)


@pytest.mark.parametrize("request_id", [0, -1, 2**53 - 1, "", "x" * 1000, "é\u2028\U0001f600\x00"])
def test_gives_back_any_good_id(door: Door, request_id: Any) -> None:
    answer = door.post(modern_call("time__echo", {}, request_id))
    assert json.loads(answer.body)["id"] == request_id


@pytest.mark.parametrize("request_id", [7, "seven"])
def test_a_protocol_error_names_the_request_it_is_about(door: Door, request_id: Any) -> None:
    message = modern_call("time__echo", {}, request_id)
    answer = door.post(message, {"Mcp-Method": "tools/list"})
    assert json.loads(answer.body)["id"] == request_id


@pytest.mark.parametrize("version", ["2027-01-01", "1999-01-01", "DRAFT", "2026-07-28x"])
def test_refuses_a_revision_it_does_not_speak_and_says_which_it_does(
    door: Door, version: str
) -> None:
    message = modern_call("time__echo", {})
    message["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] = version
    with door.untouched():
        answer = door.post(message, {"MCP-Protocol-Version": version})
        assert (answer.status, answer.code) == (400, -32022)
        data = json.loads(answer.body)["error"]["data"]
        assert data["requested"] == version
        assert "2026-07-28" in data["supported"]


def test_refuses_a_notification_in_a_revision_it_does_not_speak(door: Door) -> None:
    note = {"jsonrpc": "2.0", "method": "notifications/cancelled"}
    with door.untouched():
        answer = door.post(note, {"MCP-Protocol-Version": "2027-01-01"})
        assert (answer.status, answer.code) == (400, -32022)
        assert door.post(note, {"Mcp-Method": "tools/call"}).code == -32020


@pytest.mark.parametrize("missing", ["protocolVersion", "clientCapabilities"])
def test_refuses_a_request_without_its_envelope(door: Door, missing: str) -> None:
    message = modern_call("time__echo", {})
    del message["params"]["_meta"][f"io.modelcontextprotocol/{missing}"]
    with door.untouched():
        answer = door.post(message)
        assert (answer.status, answer.code) == (400, -32602)


def test_refuses_a_posted_response_of_a_stateless_agent(door: Door) -> None:
    with door.untouched():
        answer = door.post({"jsonrpc": "2.0", "id": 1, "method": "", "result": {}})
        assert answer.status == 400
        body = b'{"jsonrpc": "2.0", "id": 1, "result": {}}'
        assert door.post(body).code == -32600


@pytest.mark.parametrize(
    "text",
    [
        '{"n": 9007199254740992}', '{"n": -9007199254740992}', '{"n": 123456789012345678901234}',
        '{"s": "\\ud800"}', '{"s": "\\udc00\\ud800"}', '{"\\udfff": 1}',
    ],
)  # fmt: skip
def test_refuses_arguments_that_have_no_canonical_form(door: Door, text: str) -> None:
    with door.untouched():
        answer = door.post(arguments(text))
        assert (answer.status, answer.code) == (400, -32602)


def test_passes_every_value_that_has_one(door: Door) -> None:
    given = {
        "n": 2**53 - 1,
        "f": 1e-7,
        "z": -0.5,
        "s": "\x00\x7f\u2028\U0001f600",
        "": [None, True],
    }
    answer = door.post(modern_call("time__echo", given))
    assert answer.status == 200
    assert door.calls()[-1]["message"]["params"]["arguments"] == given


def test_what_cannot_be_digested_but_stands_in_meta_passes_unchanged(door: Door) -> None:
    message = modern_call("time__echo", {})
    message["params"]["_meta"]["example.com/big"] = [2**70, "\ud800"]
    assert door.post(message).status == 200
    meta = door.calls()[-1]["message"]["params"]["_meta"]
    assert meta["example.com/big"] == [2**70, "\ud800"]


@pytest.mark.parametrize("arguments", [[], [1], "x", 1, False])
def test_refuses_arguments_that_are_no_object(door: Door, arguments: Any) -> None:
    message = modern_message("tools/call", {"name": "time__slow", "arguments": arguments})
    with door.untouched():
        answer = door.post(message)
        assert (answer.status, answer.code) == (400, -32602)


def test_line_feeds_in_what_the_caller_says_make_no_second_record(door: Door) -> None:
    evil = 'x\n{"v": 1, "decision": "allow"}\r\n'
    message = modern_call(f"time__{evil}", {"text": evil})
    message["params"]["_meta"]["io.modelcontextprotocol/clientInfo"] = {
        "name": evil,
        "version": evil,
    }
    encoded = base64.b64encode(f"time__{evil}".encode()).decode()
    with door.untouched():
        headers = {"Mcp-Name": f"=?base64?{encoded}?=", "User-Agent": "a"}
        answer = door.post(message, headers)
        assert answer.code == -32602
        event_id = answer.headers["agentgw-event-id"]
        found = [r for r in door.gw.records() if r["event_id"] == event_id]
        assert [r["phase"] for r in found] == ["decision"]
        assert door.gw.output.count('"decision": "allow"') == 0
