"""What a secret that works once stands for: sign-in states, codes, request URIs, device codes, links."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Kept:
    """What was kept for a secret. `payload` is plain JSON, times are Unix seconds.

    `used` is when the secret was taken before; None: never, or this was the one time.
    """

    payload: Mapping[str, Any]
    exp: int
    used: int | None = None
