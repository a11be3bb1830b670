from __future__ import annotations

from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from agentgw.core import call_token as ours
from agentgw.verify.canonical import (
    NotCanonical,
    canonical_json,
    params_digest,
    strict_json,
    tool_digest,
)

AUD = "https://tickets.example.com/mcp"
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_writes_what_another_implementation_writes(value: Any) -> None:
    assert canonical_json(value) == rfc8785.dumps(value)


@given(st.dictionaries(TEXT, VALUES, max_size=4), TEXT)
def test_digests_are_those_of_the_gateway(params: dict[str, Any], method: str) -> None:
    assert params_digest(AUD, method, params) == ours.params_digest(AUD, method, params)
    assert tool_digest(params) == ours.tool_digest(params)


def test_the_digest_is_that_of_the_story() -> None:
    params = {"name": "close_ticket", "arguments": {"id": 42, "reason": "solved"}, "_meta": {}}
    assert params_digest(AUD, "tools/call", params) == (
        "sha-256:UqtvRHT7dED66ZKDi6Uju9v0BfJ_zCUiRboIHAPklro"
    )


@pytest.mark.parametrize(
    "value", [2**53, -(2**53), float("inf"), float("nan"), "\ud800", {"\udfff": 1}]
)
def test_refuses_what_has_no_canonical_form(value: object) -> None:
    with pytest.raises(NotCanonical):
        canonical_json([value])


@pytest.mark.parametrize(
    "data",
    [b'{"a":1,"a":1}', b"NaN", b"-Infinity", b"\xef\xbb\xbf{}", b"{}x", b"", b"\x00", b'{"a":1,}'],
)
def test_refuses_bytes_with_two_readings(data: bytes) -> None:
    with pytest.raises(NotCanonical):
        strict_json(data)
