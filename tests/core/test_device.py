"""The device flow's rules."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgw.core.device import (
    INTERVAL,
    Device,
    judge_answer,
    judge_poll,
    polled_again,
    read_user_code,
    user_code_of,
)
from agentgw.core.login_grants import UsedTwice
from agentgw.core.one_time import Kept
from agentgw.errors import OAuthError

NOW = 1_700_000_000
DEVICE = Device("desktop", "https://gw.example.com/mcp", None, NOW + 600)


@given(st.text(alphabet=st.characters(codec="ascii"), min_size=20, max_size=60))
def test_a_user_code_is_typed_back_however_it_is_spaced(device_code: str) -> None:
    code = user_code_of(device_code)
    assert len(code) == 9 and code[4] == "-" and not set(code) & set("AEIOUY015")
    for typed in (code, code.lower(), code.replace("-", ""), code.replace("-", " "), f" {code}\t"):
        assert read_user_code(typed) == code


@pytest.mark.parametrize(
    "typed", ["", "BCDF", "BCDF-GHJK-L", "AEIO-UBCD", "BCDF_GHJK", "\uff22CDF-GHJK"]
)
def test_what_is_no_code_is_none(typed: str) -> None:
    assert read_user_code(typed) is None


def test_a_device_that_polls_faster_waits_longer_each_time() -> None:
    first, told = polled_again(DEVICE, NOW)
    assert (told.error, first.interval) == ("authorization_pending", INTERVAL)
    fast, told = polled_again(first, NOW + 4)
    assert (told.error, fast.interval) == ("slow_down", 2 * INTERVAL)
    faster, told = polled_again(fast, NOW + 13)
    assert (told.error, faster.interval) == ("slow_down", 3 * INTERVAL)
    _, told = polled_again(faster, NOW + 28)
    assert told.error == "authorization_pending"


def test_a_poll_is_of_its_own_device_in_time() -> None:
    assert judge_poll(Kept(DEVICE.payload(), NOW + 900), "desktop", NOW) == DEVICE
    for kept, client, error in (
        (None, "desktop", "invalid_grant"),
        (Kept(DEVICE.payload(), NOW + 900), "other", "invalid_grant"),
        (Kept(replace(DEVICE, until=NOW).payload(), NOW + 900), "desktop", "expired_token"),
    ):
        with pytest.raises(OAuthError) as refused:
            judge_poll(kept, client, NOW)
        assert refused.value.error == error


def test_an_answer_gives_one_token() -> None:
    taken = Kept(DEVICE.payload(), NOW + 900)
    assert judge_answer({"login": "l-1"}, taken) == "l-1"
    with pytest.raises(UsedTwice):
        judge_answer({"login": "l-1"}, replace(taken, used=NOW))
    with pytest.raises(OAuthError) as refused:
        judge_answer({"login": None}, taken)
    assert refused.value.error == "access_denied"
