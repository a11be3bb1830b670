"""Signing in from a terminal: the device flow as its device (RFC 8628 section 3.4)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agentgw.app.exchange_client import Denied, Unreachable, ask
from agentgw.core.device import INTERVAL
from agentgw.core.login_grants import DEVICE_CODE

_LONGEST = 3600
"""Seconds that a code is believed to live at most, whatever the gateway says."""


@dataclass(frozen=True, slots=True)
class Begun:
    """What the user is told: where to go, and the code to type there. `until` and `interval` are seconds."""

    device_code: str
    user_code: str
    page: str
    link: str
    life: int
    interval: int


def begin(issuer: str, client_id: str, resource: str | None, scope: str | None) -> Begun:
    """Ask the gateway at `issuer` for a code. Raises Denied, Unreachable or AgentgwError."""
    wanted = {"client_id": client_id, "resource": resource, "scope": scope}
    form = {name: value for name, value in wanted.items() if value is not None}
    answer, _ = ask(issuer, "/oauth/device_authorization", form, "device_code")
    page = str(answer.get("verification_uri", ""))
    return Begun(
        str(answer["device_code"]),
        str(answer.get("user_code", "")),
        page,
        str(answer.get("verification_uri_complete", page)),
        _seconds(answer.get("expires_in"), _LONGEST),
        _seconds(answer.get("interval"), INTERVAL),
    )


def wait(
    issuer: str, client_id: str, begun: Begun, sleep: Callable[[float], None] = time.sleep
) -> dict[str, Any]:
    """The token answer, once the user has answered. Raises Denied where they said no or nothing.

    A gateway that cannot be reached meanwhile is asked again until the code has ended.
    """
    form = {"grant_type": DEVICE_CODE, "client_id": client_id, "device_code": begun.device_code}
    interval, waited = begun.interval, 0
    unreachable: Unreachable | None = None
    while waited < begun.life:
        sleep(interval)
        waited += interval
        try:
            answer, _ = ask(issuer, "/oauth/token", form, "access_token")
        except Unreachable as error:
            unreachable = error
        except Denied as error:
            if error.error not in ("authorization_pending", "slow_down"):
                raise
            unreachable = None
            interval += INTERVAL if error.error == "slow_down" else 0
        else:
            return answer
    raise unreachable or Denied("expired_token", "nobody answered in time", None)


def _seconds(value: object, default: int) -> int:
    return value if type(value) is int and 0 < value <= _LONGEST else default
