"""The key that signs checkpoints: Ed25519, its own file, never one of the token keys."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from agentgw.core.checkpoint import VerifierKey, sign_note
from agentgw.errors import ConfigError


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


def open_note_signer(path: Path, name: str) -> NoteSigner:
    """The signer whose key stands at `path` (PEM, PKCS #8, mode 0600), made on first use.

    Its vkey is written beside it as `{path}.vkey`, to be handed to whoever verifies.
    Raises ConfigError where the file holds no Ed25519 key; OSError.
    """
    if not path.exists():
        _create(path)
    loaded = _load(path)
    signer = note_signer(name, loaded)
    path.with_name(path.name + ".vkey").write_text(f"{signer.key}\n")
    return signer


def _create(path: Path) -> None:
    pem = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(fd)
    try:
        # A link, not a rename: of two workers starting at once the first one's key stays.
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def _load(path: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(
            str(path), 0, "this is no Ed25519 private key", "move it away; a new one will be made"
        )
    return key


def verify_ed25519(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether an Ed25519 signature holds (the `verify` that `core.checkpoint` asks for)."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
