"""From one era to the other and back: only what the other has no word for is lost."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgw.mcp import bridge, modern

SERVER = {"name": "tickets", "version": "1"}
VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
KEYS = st.text(max_size=6).filter(lambda key: key != "_meta")
PARAMS = st.dictionaries(KEYS, VALUES, max_size=4)
META = st.dictionaries(st.text(max_size=6), VALUES, min_size=1, max_size=3)
RESULTS = st.dictionaries(
    KEYS.filter(lambda key: key not in ("resultType", "ttlMs", "cacheScope")), VALUES, max_size=4
)


@given(PARAMS, META | st.none())
def test_params_survive_the_way_there_and_back(params: dict[str, Any], meta: Any) -> None:
    given_params = params if meta is None else {**params, "_meta": meta}
    before = copy.deepcopy(given_params)
    there = bridge.to_modern_params(given_params, SERVER)
    assert there["_meta"][modern.META_VERSION] == modern.VERSION
    assert there["_meta"][modern.META_CAPABILITIES] == {}
    assert bridge.to_handshake_params(there) == before
    assert given_params == before


def test_an_agent_cannot_write_the_envelope_that_we_send() -> None:
    meta = {modern.META_VERSION: "1999", modern.META_CAPABILITIES: {"sampling": {}}, "mine": 1}
    sent = bridge.to_modern_params({"_meta": meta}, SERVER)["_meta"]
    assert sent[modern.META_VERSION] == modern.VERSION
    assert sent[modern.META_CAPABILITIES] == {}
    assert sent["mine"] == 1


@given(RESULTS, META | st.none(), st.sampled_from(["tools/list", "tools/call", "resources/read"]))
def test_results_survive_the_way_there_and_back(
    result: dict[str, Any], meta: Any, method: str
) -> None:
    given_result = result if meta is None else {**result, "_meta": meta}
    there = bridge.to_modern_result(method, given_result, SERVER, 5)
    assert there["resultType"] == "complete"
    assert ("ttlMs" in there) == (method in bridge.CACHEABLE)
    assert there["_meta"][modern.META_SERVER_INFO] == SERVER
    assert bridge.to_handshake_result(there) == given_result


def test_what_is_shared_is_never_marked_public() -> None:
    assert (
        bridge.to_modern_result("tools/list", {"cacheScope": "public"}, SERVER)["cacheScope"]
        == "private"
    )
    assert bridge.discover_result({}, SERVER, None, 1)["cacheScope"] == "private"


def test_a_retired_error_code_gets_its_new_number() -> None:
    assert bridge.to_modern_error({"code": -32002, "message": "m"}) == {
        "code": -32602,
        "message": "m",
    }
    assert bridge.to_modern_error({"code": 7, "data": 1}) == {"code": 7, "data": 1}


def test_promises_of_unasked_messages_are_not_passed_on() -> None:
    offered = {
        "tools": {"listChanged": True, "x": 1},
        "resources": {"subscribe": True},
        "tasks": {},
        "y": 2,
    }
    assert bridge.without_push(offered) == {"tools": {"x": 1}, "resources": {}, "y": 2}


@pytest.mark.parametrize("instructions", [None, "", "Be kind."])
def test_openings_carry_instructions_where_there_are_any(instructions: str | None) -> None:
    for opening in (
        bridge.initialize_result("2025-11-25", {}, SERVER, instructions),
        bridge.discover_result({}, SERVER, instructions, 1),
    ):
        assert opening.get("instructions") == instructions
