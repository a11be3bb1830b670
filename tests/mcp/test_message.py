"""The strict parser, against an oracle and against what it must refuse."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgw.errors import MalformedMessage
from agentgw.mcp.message import (
    INVALID_REQUEST,
    MAX_CONTAINERS,
    Message,
    encode,
    parse_message,
)

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=12,
)


def message(params: Any, **members: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": "x/y", "params": {"given": params}, **members}


def code(body: bytes, depth: int = 64) -> int:
    with pytest.raises(MalformedMessage) as refused:
        parse_message(body, depth)
    return refused.value.code


@given(VALUES, st.booleans(), st.sampled_from([None, (",", ":"), (" , ", "\n:\t")]))
def test_reads_every_value_as_the_standard_library_does(
    value: Any, ascii_only: bool, separators: tuple[str, str] | None
) -> None:
    body = json.dumps(message(value), ensure_ascii=ascii_only, separators=separators)
    assert parse_message(body.encode("utf-8")).document == json.loads(body)


@given(VALUES)
def test_writes_a_message_that_reads_back_the_same(value: Any) -> None:
    written = encode(message(value))
    assert b"\n" not in written
    assert parse_message(written).document == message(value)


@given(st.binary(max_size=60) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_give_a_message_or_a_refusal(body: bytes) -> None:
    try:
        assert isinstance(parse_message(body), Message)
    except MalformedMessage as error:
        assert error.status == 400
        assert error.code in (-32700, -32600, -32602)


@given(VALUES, st.integers(4, 12))
def test_the_depth_is_that_of_a_naive_count(value: Any, limit: int) -> None:
    def depth(node: Any) -> int:
        if isinstance(node, dict):
            return 1 + max(map(depth, node.values()), default=0)
        if isinstance(node, list):
            return 1 + max(map(depth, node), default=0)
        return 0

    for separators in (None, (",", ":")):
        body = json.dumps(message(value), separators=separators).encode()
        if depth(message(value)) > limit:
            assert code(body, limit) == -32700
        else:
            assert parse_message(body, limit).params["given"] == value


def filled(values: bytes) -> bytes:
    return (
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"arguments":{"a":[%s]}}}' % values
    )


def test_more_containers_than_a_message_may_have_are_refused_before_any_is_made() -> None:
    for empty in (b"[]", b"{}"):
        assert parse_message(filled(b",".join([empty] * (MAX_CONTAINERS - 4)))).id == 1
        assert code(filled(b",".join([empty] * MAX_CONTAINERS))) == INVALID_REQUEST


def test_brackets_inside_strings_are_no_containers() -> None:
    brackets = b'"%s"' % (b"[{" * MAX_CONTAINERS + b'\\\\ \\" [')
    assert parse_message(filled(brackets)).id == 1


@given(st.text(alphabet='[]{}"\\x', max_size=40))
def test_brackets_inside_strings_do_not_count(text: str) -> None:
    body = json.dumps(message([text, text])).encode()
    assert parse_message(body, 4).params["given"] == [text, text]


@given(st.text(max_size=6), VALUES, VALUES, st.booleans())
def test_a_duplicate_member_is_refused_wherever_and_however_it_is_written(
    key: str, first: Any, second: Any, escaped: bool
) -> None:
    plain = json.dumps(key, ensure_ascii=False)
    again = '"' + "".join(f"\\u{ord(c):04x}" for c in key if ord(c) < 0x10000) + '"'
    if not escaped or json.loads(again) != key:
        again = plain
    inner = f"{{{plain}:{json.dumps(first)},{again}:{json.dumps(second)}}}"
    for place in (f'{{"given":{inner}}}', f'{{"given":[{inner}]}}'):
        body = f'{{"jsonrpc":"2.0","id":1,"method":"x","params":{place}}}'
        assert code(body.encode("utf-8", "surrogatepass")) == -32700


@pytest.mark.parametrize(
    "member", ["ID", "Jsonrpc", "MeThod", "paramS", "re\u017fult", "id\0", "error\0x"]
)
def test_an_envelope_member_spelled_otherwise_is_refused(member: str) -> None:
    assert code(json.dumps({**message(1), member: 1}).encode()) == -32600


@pytest.mark.parametrize(
    "member", ["Name", "URI", "taskid", "TaskId", "Arguments", "_META", "Ref", "tas\u212aId"]
)
def test_a_member_of_params_spelled_otherwise_is_refused(member: str) -> None:
    assert code(json.dumps({**message(1), "params": {member: "x"}}).encode()) == -32600


def test_a_reference_spelled_otherwise_is_refused() -> None:
    params = {"ref": {"type": "ref/prompt", "name": "mine", "Name": "theirs"}}
    assert code(json.dumps({**message(1), "params": params}).encode()) == -32600


def test_arguments_and_unknown_members_may_be_spelled_as_they_like() -> None:
    params = {"arguments": {"Name": 1, "ID": 2}, "vendor": {"Method": 3}, "Cursor": 4}
    body = {**message(1), "params": params, "vendorExtension": {"ID": 5}}
    assert parse_message(json.dumps(body).encode()).document == body


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({}, "request"),
        ({"method": None, "params": None, "result": {}}, "response"),
        ({"id": None, "method": "notifications/progress"}, "notification"),
    ],
)
def test_tells_the_kinds_apart(change: dict[str, Any], kind: str) -> None:
    members = {name: value for name, value in {**message(1), **change}.items() if value is not None}
    assert parse_message(json.dumps(members).encode()).kind == kind


@pytest.mark.parametrize(
    "body",
    [
        b'{"jsonrpc":"2.0","id":1}', b'{"jsonrpc":"2.0","result":{}}',
        b'{"jsonrpc":"2.0","id":1,"result":{},"error":{}}', b'{"jsonrpc":"2.0","id":null,"error":{}}',
        b'{"jsonrpc":"2.0","id":1,"method":"x","error":{}}', b"[]", b"1", b"true",
    ],
)  # fmt: skip
def test_refuses_what_is_neither_request_nor_response(body: bytes) -> None:
    assert code(body) == -32600


HOSTILE = {
    "one long string": b'{"a":"' + b"x" * 3_900_000 + b'","b":' + b"[" * 70,
    "escapes": b'{"a":"' + b'\\"' * 1_900_000 + b'"' + b"[" * 70,
    "backslashes": b'{"a":"' + b"\\" * 3_900_000 + b"[" * 70,
    "openings": b"[" * 3_900_000,
    "quotes": b'"' * 3_900_000 + b"[" * 70,
    "strings of brackets": b"[" + b'"{",' * 900_000 + b"[" * 70,
    "digits": b'{"a":' + b"9" * 3_900_000 + b"}",
    "exponent": b'{"a":1' + b"0" * 3_900_000 + b"e9}",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_four_megabytes_made_to_hurt_are_refused_in_no_time(kind: str) -> None:
    started = time.process_time()
    assert code(HOSTILE[kind]) == -32700
    assert time.process_time() - started < 1.5
