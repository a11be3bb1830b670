"""Values that leave the gateway and come back: sealed, so that nobody else can read or make one."""

from __future__ import annotations

import base64
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agentgw.core.canonical import b64url

_NONCE = 12


class Seal:
    """AES-256-GCM under `key` (32 bytes). `random` gives so many random bytes.

    What was sealed for one purpose, and bound to one value, opens for no other.
    """

    def __init__(self, key: bytes, random: Callable[[int], bytes]) -> None:
        self._cipher = AESGCM(key)
        self._random = random

    def seal(self, purpose: str, inner: bytes, bound_to: str = "") -> str:
        """`inner` as base64url that only `open` with the same words can read."""
        nonce = self._random(_NONCE)
        return b64url(nonce + self._cipher.encrypt(nonce, inner, _words(purpose, bound_to)))

    def open(self, purpose: str, sealed: str, bound_to: str = "") -> bytes | None:
        """What was sealed, or None where it is none of ours."""
        try:
            raw = base64.urlsafe_b64decode(sealed.encode("ascii") + b"=" * (-len(sealed) % 4))
            if b64url(raw) != sealed:
                return None
            return self._cipher.decrypt(raw[:_NONCE], raw[_NONCE:], _words(purpose, bound_to))
        except (InvalidTag, ValueError):
            return None


def _words(purpose: str, bound_to: str) -> bytes:
    return f"{purpose}\0{bound_to}".encode("utf-8", "surrogatepass")
