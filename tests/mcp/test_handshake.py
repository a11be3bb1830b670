"""The handshake revisions: which version is spoken, and when it is none."""

from __future__ import annotations

from typing import Any

import pytest

from agentgw.errors import MalformedMessage
from agentgw.mcp import handshake, modern
from agentgw.mcp.message import Message


def initialize(**params: Any) -> Message:
    return Message("request", 7, "initialize", params, {})


@pytest.mark.parametrize("version", handshake.VERSIONS)
def test_agrees_to_any_version_we_speak(version: str) -> None:
    assert handshake.negotiate(initialize(protocolVersion=version)) == version
    assert handshake.check_version(version) == version
    assert handshake.is_handshake(version)


@pytest.mark.parametrize("version", ["2099-01-01", "2024-11-05", "", modern.VERSION])
def test_offers_its_newest_for_any_other(version: str) -> None:
    assert handshake.negotiate(initialize(protocolVersion=version)) == handshake.VERSIONS[0]


@pytest.mark.parametrize("params", [{}, {"protocolVersion": None}, {"protocolVersion": 20251125}])
def test_an_opening_without_a_version_is_refused_by_name(params: dict[str, Any]) -> None:
    with pytest.raises(MalformedMessage) as refused:
        handshake.negotiate(initialize(**params))
    assert (refused.value.code, refused.value.request_id) == (-32602, 7)


def test_no_header_means_the_revision_that_had_none() -> None:
    assert handshake.is_handshake(None)
    assert handshake.check_version(None) == "2025-03-26"


def test_a_revision_we_know_but_do_not_speak_is_refused() -> None:
    assert handshake.is_handshake("2024-11-05")
    with pytest.raises(MalformedMessage, match="2025-11-25"):
        handshake.check_version("2024-11-05")


@pytest.mark.parametrize("version", [modern.VERSION, "2027-01-01", "x", ""])
def test_anything_else_is_for_the_stateless_side_to_judge(version: str) -> None:
    assert not handshake.is_handshake(version)


def test_we_offer_no_capability_that_lets_a_server_call_us() -> None:
    assert handshake.initialize_params("agentgw", "1")["capabilities"] == {}
