"""The device flow's rules: codes that people can type, and what a device that polls is told (RFC 8628)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from agentgw.core.login_grants import UsedTwice
from agentgw.core.one_time import Kept
from agentgw.errors import OAuthError

DEVICE_SECONDS = 600
INTERVAL = 5
"""Seconds between two polls, and by how much it grows for who polls faster (section 3.5)."""

_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"
"""No vowels, so no words; nothing that looks like a digit (section 6.1)."""
_LENGTH = 8


@dataclass(frozen=True, slots=True)
class Device:
    """What a device asked for: `scopes` is a scope parameter, `until` Unix seconds, `polled` when it last
    asked whether its user has answered, `interval` how long it must wait between two such questions."""

    client_id: str
    resource: str
    scopes: str | None
    until: int
    polled: int = 0
    interval: int = INTERVAL

    def payload(self) -> dict[str, Any]:
        """It as plain JSON."""
        return asdict(self)


def user_code_of(device_code: str) -> str:
    """The code that the user types, of the one that the device keeps: who has only this has no other."""
    rest = int.from_bytes(hashlib.sha256(b"user code\0" + device_code.encode()).digest())
    letters = ""
    for _ in range(_LENGTH):
        rest, index = divmod(rest, len(_LETTERS))
        letters += _LETTERS[index]
    return f"{letters[:4]}-{letters[4:]}"


def read_user_code(typed: str) -> str | None:
    """A typed code as `user_code_of` spells it, however it was spaced; None where it is none."""
    letters = "".join(char for char in typed.upper() if char not in " -\t")
    if len(letters) != _LENGTH or not set(letters) <= set(_LETTERS):
        return None
    return f"{letters[:4]}-{letters[4:]}"


def judge_poll(kept: Kept | None, client_id: str, now: float) -> Device:
    """The device of a poll, in any state but ended. Raises OAuthError (section 3.5)."""
    if kept is None or kept.payload["client_id"] != client_id:
        raise OAuthError("invalid_grant", "the device_code is unknown here")
    device = Device(**kept.payload)
    if device.until <= now:
        raise OAuthError("expired_token", "the user did not answer in time: begin again")
    return device


def polled_again(device: Device, now: float) -> tuple[Device, OAuthError]:
    """What is kept of a poll whose user has not answered, and what the device is told."""
    if now - device.polled < device.interval:
        slower = Device(**{
            **device.payload(), "polled": int(now), "interval": device.interval + INTERVAL
        })  # fmt: skip
        return slower, OAuthError(
            "slow_down", f"wait {slower.interval} seconds between two questions"
        )
    asked = Device(**{**device.payload(), "polled": int(now)})
    return asked, OAuthError("authorization_pending", "the user has not answered yet")


def judge_answer(answer: Mapping[str, Any], device: Kept | None) -> str:
    """The login that the user's answer began; `device` is what was taken for it. Raises OAuthError."""
    login = answer.get("login")
    if login is None:
        raise OAuthError("access_denied", "the user said no")
    if device is None or device.used is not None:
        raise UsedTwice("device_code", str(login))
    return str(login)
