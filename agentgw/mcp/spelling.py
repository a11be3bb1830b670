"""Secrets in JSON texts, however they are spelled there: an escape writes a letter otherwise."""

from __future__ import annotations

from agentgw.mcp.message import encode

SHORTEST_SECRET = 16
"""Characters below which a secret could stand in a text by chance."""

END = 64
"""Characters of a token's end by which it is known: a stream that stays open for hours need not keep it
whole, and without its end no token is worth anything."""

REPEATED = "its answer holds the credential it was shown, which goes no further"
"""Why an answer of a tool server is refused."""


def respelled(written: bytes, document: object) -> bytes | None:
    """The text of `document` in the one spelling that `encode` has; None where `written`, of which it was
    parsed, has no escape that could spell the letters of a secret otherwise (RFC 8259 section 7)."""
    return encode(document) if b"\\u" in written or b"\\/" in written else None


def holds(secrets: tuple[bytes, ...], written: bytes, document: object) -> bool:
    """Whether `written`, parsed as `document`, holds one of `secrets`, which are spelled as by `spelled`."""
    if any(secret in written for secret in secrets):
        return True
    again = respelled(written, document) if secrets else None
    return again is not None and any(secret in again for secret in secrets)


def spelled(secret: str) -> bytes:
    """A secret as it stands in a JSON string that `encode` wrote."""
    return encode(secret)[1:-1]


def secret_words(value: str) -> tuple[bytes, ...]:
    """The words of a header's value that are long enough to be told from other text: a scheme is none."""
    return tuple(spelled(word) for word in value.split() if len(word) >= SHORTEST_SECRET)
