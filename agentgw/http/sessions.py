"""Session ids of handshake agents: sealed, so that any worker can read them and nobody else can make one."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agentgw.core.canonical import b64url
from agentgw.core.principal import Caller
from agentgw.gateway.incoming import AgentSession, NewSession

LIFE = 24 * 3600
_NONCE = 12


class SessionSeal:
    """Seals and opens session ids with AES-256-GCM under `key` (32 bytes).

    An id is bound to the subject, the whole chain and the path; for anyone else it does not exist.
    `random` gives so many random bytes.
    """

    def __init__(self, key: bytes, random: Callable[[int], bytes]) -> None:
        self._cipher = AESGCM(key)
        self._random = random

    def seal(self, session: NewSession, caller: Caller, server: str | None, now: float) -> str:
        """The id to give to the agent."""
        about = [session.version, session.relayed, session.upstream, int(now) + LIFE]
        inner = orjson.dumps([*about, session.elicits_urls])
        nonce = self._random(_NONCE)
        return b64url(nonce + self._cipher.encrypt(nonce, inner, _binding(caller, server)))

    def open(
        self, sealed: str, caller: Caller, server: str | None, now: float
    ) -> AgentSession | None:
        """The session behind an id, or None where it is none of this caller's on this path."""
        try:
            raw = _unb64url(sealed)
            inner = self._cipher.decrypt(raw[:_NONCE], raw[_NONCE:], _binding(caller, server))
        except (InvalidTag, ValueError):
            return None
        version, relayed, upstream, expires, *rest = orjson.loads(inner)
        if now >= expires:
            return None
        # One that an earlier version sealed says nothing of it.
        return AgentSession(sealed, version, relayed, upstream, rest == [True])


def _binding(caller: Caller, server: str | None) -> bytes:
    parts = [
        server or "",
        caller.subject.iss,
        caller.subject.sub,
        *(hop.id for hop in caller.chain),
    ]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).digest()


def _unb64url(text: str) -> bytes:
    raw = base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    if b64url(raw) != text or len(raw) <= _NONCE:
        raise ValueError("not a sealed id")
    return raw
