"""Signed checkpoints of the log: C2SP tlog-checkpoint inside a C2SP signed-note, Ed25519 signatures.

Keys and signatures stay callables here, so that these rules need no cryptography.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from agentgw.core.merkle import HASH_SIZE

ED25519 = b"\x01"
"""The signature type byte of signed-note for plain Ed25519."""

_KEY_SIZE = 32
_SIGNATURE_SIZE = 64
_DASH = "\N{EM DASH} "
_NOTE = re.compile(r"(.+\n)\n((?:\u2014 [^\s+]+ [A-Za-z0-9+/]{8}\S*\n)+)", re.DOTALL)
_KEY_NAME = re.compile(r"[^\s+]+")
_MANIFEST_HEAD = "agentgw log manifest"

Verify = Callable[[bytes, bytes, bytes], bool]
"""`verify(public_key, signature, message)`: whether Ed25519 holds."""


class NoteInvalid(ValueError):
    """A note, checkpoint, manifest or key that is malformed or not signed by a key we were given."""


class UnknownSigner(NoteInvalid):
    """A well-formed note that none of the given keys signed."""


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key by the name it signs under: `public_key` is the raw 32-byte Ed25519 key."""

    name: str
    public_key: bytes

    @property
    def key_hash(self) -> bytes:
        """The first 4 bytes of SHA-256(name || LF || type || key) (signed-note, "Verifier keys")."""
        body = self.name.encode() + b"\n" + ED25519 + self.public_key
        return hashlib.sha256(body).digest()[:4]

    def __str__(self) -> str:
        """The vkey: `name+hash+base64(type || key)`."""
        return f"{self.name}+{self.key_hash.hex()}+{_b64(ED25519 + self.public_key)}"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tree head: `origin` names the log, `size` counts its records, `root` is the 32-byte tree hash."""

    origin: str
    size: int
    root: bytes

    @property
    def log(self) -> str:
        """The log's name: what stands after the last slash of the origin."""
        return self.origin.rpartition("/")[2]

    def __str__(self) -> str:
        """The note's text, LF at the end (tlog-checkpoint)."""
        return f"{self.origin}\n{self.size}\n{_b64(self.root)}\n"


def parse_vkey(text: str) -> VerifierKey:
    """The key a `name+hash+base64` line stands for. Raises NoteInvalid."""
    parts = text.strip().split("+", 2)
    if len(parts) != 3 or not _KEY_NAME.fullmatch(parts[0]):
        raise NoteInvalid("a verifier key reads name+hash+base64")
    name, hash_hex, body = parts
    raw = _unb64(body)
    if raw[:1] != ED25519 or len(raw) != 1 + _KEY_SIZE:
        raise NoteInvalid("the verifier key is no Ed25519 key")
    key = VerifierKey(name, raw[1:])
    if key.key_hash.hex() != hash_hex:
        raise NoteInvalid("the verifier key's hash does not fit its name and key")
    return key


def parse_checkpoint(text: str) -> Checkpoint:
    """The checkpoint a note's text stands for: exactly three canonical lines. Raises NoteInvalid."""
    lines = text.split("\n")
    if len(lines) != 4 or lines[3] or not lines[0]:
        raise NoteInvalid("a checkpoint is three lines: origin, size, root")
    origin, size, root = lines[:3]
    if not (size.isascii() and size.isdigit() and len(size) < 20) or str(int(size)) != size:
        raise NoteInvalid("the checkpoint's size is no decimal number")
    digest = _unb64(root)
    if len(digest) != HASH_SIZE:
        raise NoteInvalid("the checkpoint's root is no SHA-256 hash")
    return Checkpoint(origin, int(size), digest)


def sign_note(text: str, key: VerifierKey, sign: Callable[[bytes], bytes]) -> str:
    """The signed note over `text` (which ends in LF): text, blank line, signature line (signed-note)."""
    signature = _b64(key.key_hash + sign(text.encode()))
    return f"{text}\n{_DASH}{key.name} {signature}\n"


def note_text(note: str) -> str:
    """The text of a note whose signatures nobody checks. Raises NoteInvalid."""
    text, _ = _split_note(note)
    return text


def open_note(note: str, keys: Iterable[VerifierKey], verify: Verify) -> tuple[str, VerifierKey]:
    """The text of a note and the first of `keys` that signed it. Raises NoteInvalid, UnknownSigner.

    A line by a key we do not know is ignored (a witness's, say); one by a key we know must verify.
    """
    text, lines = _split_note(note)
    known = {(key.name, key.key_hash): key for key in keys}
    signed_by: VerifierKey | None = None
    for line in lines:
        name, key_hash, signature = _signature(line)
        key = known.get((name, key_hash))
        if key is None:
            continue
        if len(signature) != _SIGNATURE_SIZE or not verify(
            key.public_key, signature, text.encode()
        ):
            raise NoteInvalid(f"the signature of {name} does not hold")
        signed_by = signed_by or key
    if signed_by is None:
        raise UnknownSigner("none of the given keys signed it")
    return text, signed_by


def split_notes(text: str) -> tuple[list[str], str]:
    """The notes of a file of notes, each followed by a blank line, and what stands after the last.

    That rest is empty unless the last append was cut short.
    """
    *parts, rest = text.split("\n\n")
    whole = len(parts) - len(parts) % 2
    notes = [f"{parts[i]}\n\n{parts[i + 1]}\n" for i in range(0, whole, 2)]
    return notes, "\n\n".join([*parts[whole:], rest])


def format_manifest(logs: Iterable[str]) -> str:
    """The note text that lists the logs of one gateway, sorted; no checkpoint reads like it."""
    return "\n".join([_MANIFEST_HEAD, *(f"log {name}" for name in sorted(logs))]) + "\n"


def parse_manifest(text: str) -> tuple[str, ...]:
    """The log names a manifest's text lists. Raises NoteInvalid."""
    head, *lines = text.split("\n")[:-1] or [""]
    names = tuple(line.removeprefix("log ") for line in lines)
    if head != _MANIFEST_HEAD or format_manifest(set(names)) != text:
        raise NoteInvalid("the manifest is malformed")
    return names


def _split_note(note: str) -> tuple[str, list[str]]:
    match = _NOTE.fullmatch(note)
    if match is None:
        raise NoteInvalid("a note is text, a blank line and signature lines")
    return match[1], match[2].removesuffix("\n").split("\n")


def _signature(line: str) -> tuple[str, bytes, bytes]:
    _, name, body = line.split(" ")
    raw = _unb64(body)
    return name, raw[:4], raw[4:]


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _unb64(text: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise NoteInvalid("that is no base64") from None
    if _b64(raw) != text:
        raise NoteInvalid("the base64 is not canonical")
    return raw
