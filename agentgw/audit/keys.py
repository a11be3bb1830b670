"""Signing checkpoints: with an Ed25519 key of its own, never one of the token keys."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from agentgw.core.checkpoint import VerifierKey, sign_note


@dataclass(frozen=True, slots=True)
class NoteSigner:
    """Signs notes under `key.name`; checkpoints of log `x` have the origin `{key.name}/x`."""

    key: VerifierKey
    private_key: Ed25519PrivateKey

    def sign(self, text: str) -> str:
        """The signed note over `text` (signed-note)."""
        return sign_note(text, self.key, self.private_key.sign)


def note_signer(name: str, private_key: Ed25519PrivateKey) -> NoteSigner:
    """The signer for a key under the name others know it by (no spaces, no plus): a host name, say."""
    return NoteSigner(VerifierKey(name, private_key.public_key().public_bytes_raw()), private_key)


def verify_ed25519(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether an Ed25519 signature holds (the `verify` that `core.checkpoint` asks for)."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
