"""Mirrored headers: one value, one spelling, there and back."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgw.errors import MalformedMessage
from agentgw.mcp import modern
from agentgw.mcp.message import Message

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
META = {modern.META_VERSION: modern.VERSION, modern.META_CAPABILITIES: {}}


def request(method: str = "tools/call", **params: Any) -> Message:
    full = {"_meta": dict(META), **params}
    return Message("request", 1, method, full, {"method": method, "params": full})


def refusal(message: Message, version: str, method: str | None, name: str | None) -> int:
    with pytest.raises(MalformedMessage) as refused:
        modern.check_request(message, version, method, name)
    assert refused.value.status == 400
    return refused.value.code


@given(TEXT)
def test_a_mirrored_value_comes_back_and_fits_a_header_line(value: str) -> None:
    encoded = modern.encode_header(value)
    assert encoded.isascii()
    assert encoded.isprintable()
    assert modern.decode_header(encoded) == value
    assert modern.decode_header(f" \t{encoded}\t ") == value


@given(TEXT, TEXT)
def test_no_two_values_share_a_spelling(one: str, other: str) -> None:
    assert (modern.encode_header(one) == modern.encode_header(other)) == (one == other)


@pytest.mark.parametrize(
    "value",
    ["=?base64?!!!?=", "=?base64?YQ?=", "=?base64?YR==?=", "=?base64?Y Q==?=", "=?base64?/w==?=",
     "\xe9", "\u0435"],
)  # fmt: skip
def test_a_spelling_that_the_encoder_never_makes_means_nothing(value: str) -> None:
    assert modern.decode_header(value) is None


@given(TEXT)
def test_whoever_mirrors_truly_passes_and_anybody_else_does_not(name: str) -> None:
    message = request(name=name)
    modern.check_request(message, modern.VERSION, "tools/call", modern.encode_header(name))
    assert (
        refusal(message, modern.VERSION, "tools/call", modern.encode_header(name + "x")) == -32020
    )
    assert refusal(message, modern.VERSION, "tools/call", None) == -32020
    assert refusal(message, modern.VERSION, "tools/list", modern.encode_header(name)) == -32020
    assert refusal(message, modern.VERSION, None, modern.encode_header(name)) == -32020
    assert refusal(message, "2027-01-01", "tools/call", modern.encode_header(name)) == -32020


@pytest.mark.parametrize("name", [None, 1, ["a"], {"b": 1}])
def test_a_name_that_is_no_text_matches_no_header(name: Any) -> None:
    assert refusal(request(name=name), modern.VERSION, "tools/call", str(name)) == -32020


def test_the_envelope_comes_first_and_the_revision_before_the_method() -> None:
    bare = Message("request", 1, "tools/list", {}, {})
    assert refusal(bare, modern.VERSION, "x", None) == -32602
    for meta in ({modern.META_VERSION: 1}, {modern.META_VERSION: modern.VERSION}):
        assert refusal(request(_meta=meta), modern.VERSION, "tools/call", "x") == -32602
    later = request(_meta={**META, modern.META_VERSION: "2027-01-01"}, name="x")
    assert refusal(later, "2027-01-01", "wrong", "wrong") == -32022


def test_a_notification_needs_no_envelope_but_must_not_contradict_itself() -> None:
    note = Message("notification", None, "notifications/cancelled", {}, {})
    modern.check_request(note, modern.VERSION, None, None)
    modern.check_request(note, modern.VERSION, "notifications/cancelled", None)
    assert refusal(note, modern.VERSION, "tools/call", None) == -32020
    assert refusal(note, "2027-01-01", None, None) == -32022


@given(TEXT, st.sampled_from(list(modern.NAME_BEARING)))
def test_what_we_send_passes_our_own_check(name: str, method: str) -> None:
    message = request(method, **{modern.NAME_BEARING[method]: name})
    lines = modern.request_headers(method, message.params, {}).decode("ascii").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines if line)
    assert lines[-1] == ""
    assert list(headers) == ["MCP-Protocol-Version", "Mcp-Method", "Mcp-Name"]
    modern.check_request(message, modern.VERSION, headers["Mcp-Method"], headers["Mcp-Name"])


@given(TEXT, st.integers(), st.booleans())
def test_arguments_become_one_header_line_each_whatever_they_hold(
    text: str, number: int, flag: bool
) -> None:
    wanted = {("a", "b"): "Text", ("n",): "Number", ("f",): "Flag", ("none",): "None"}
    params = {"name": "t", "arguments": {"a": {"b": text}, "n": number, "f": flag, "none": None}}
    lines = modern.request_headers("tools/call", params, wanted).decode("ascii").split("\r\n")[3:-1]
    assert lines == [
        f"Mcp-Param-Text: {modern.encode_header(text)}",
        f"Mcp-Param-Number: {number}",
        f"Mcp-Param-Flag: {'true' if flag else 'false'}",
    ]


STRING = {"type": "string"}


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {**STRING, "x-mcp-header": "A\r\nX-Evil: 1"}}},
        {"properties": {"a": {**STRING, "x-mcp-header": ""}}},
        {"properties": {"a": {**STRING, "x-mcp-header": "A B"}}},
        {"properties": {"a": {**STRING, "x-mcp-header": 1}}},
        {"properties": {"a": {"type": "number", "x-mcp-header": "A"}}},
        {"properties": {"a": {"type": ["string"], "x-mcp-header": "A"}}},
        {"properties": {"a": {**STRING, "x-mcp-header": "A"}, "b": {**STRING, "x-mcp-header": "a"}}},
        {"x-mcp-header": "A", **STRING},
        {"properties": {"a": {"type": "array", "items": {**STRING, "x-mcp-header": "A"}}}},
        {"anyOf": [{"properties": {"a": {**STRING, "x-mcp-header": "A"}}}]},
        {"$defs": {"d": {**STRING, "x-mcp-header": "A"}}},
    ],
)  # fmt: skip
def test_a_tool_whose_annotations_break_the_rules_gets_no_headers(schema: dict[str, Any]) -> None:
    assert modern.param_headers(schema) is None


def test_annotations_are_found_by_their_path_of_properties() -> None:
    inner = {"type": "object", "properties": {"b": {"type": "integer", "x-mcp-header": "B"}}}
    schema = {
        "properties": {"a": inner, "x-mcp-header": STRING, "c": {**STRING, "x-mcp-header": "C"}}
    }
    assert modern.param_headers(schema) == {("a", "b"): "B", ("c",): "C"}
    assert modern.param_headers({"type": "object"}) == {}
    assert modern.param_headers(None) == {}


def test_base64_is_the_standard_alphabet() -> None:
    assert (
        modern.encode_header("\xff?>") == f"=?base64?{base64.b64encode('ÿ?>'.encode()).decode()}?="
    )
