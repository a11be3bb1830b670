"""Token keys while the gateway runs: what other processes rotate is taken over, what is due is rotated."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from agentgw.errors import AgentgwError, Unavailable
from agentgw.sts.keys import KeyRing, TokenKey

LOOK_SECONDS = 1.05
"""The ring looks at its file once a second at most."""

_log = logging.getLogger("agentgw")


async def watch_keys(
    keyring: KeyRing,
    rotate_every: Callable[[], int | None],
    rotated: Callable[[TokenKey], Awaitable[object]],
) -> None:
    """Keep the token keys up to date, for ever.

    `rotate_every` gives the seconds a key may sign (None: for ever); `rotated` is told of each key that
    this process made the signing one. What fails is logged once and tried again.
    """
    said: str | None = None
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        try:
            if await asyncio.to_thread(keyring.refresh):
                _log.info("token keys changed: %s", _signing(keyring))
            if keyring.problem is not None:
                raise Unavailable(keyring.problem)
            if (every := rotate_every()) is not None:
                for key in await asyncio.to_thread(keyring.rotate_due, every):
                    _log.info("token key rotated: %s signs with %s", key.alg, key.kid)
                    await rotated(key)
            said = None
        except AgentgwError as error:
            if str(error) != said:
                said = str(error)
                _log.error("the token keys stay as they are: %s", error)


def _signing(keyring: KeyRing) -> str:
    return ", ".join(f"{alg} signs with {key.kid}" for alg, key in keyring.signing.items())
