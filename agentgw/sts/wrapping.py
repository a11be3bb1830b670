"""Key files sealed at rest: a JWE per file under a wrapping key that lies somewhere else (RFC 7516).

What is sealed names its purpose and its file in the protected header, so that one cannot take the
other's place. The wrapping key encrypts directly (`dir`, RFC 7518 section 4.5): a fresh nonce for each of
the few times a file is ever written.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import os
import stat
from base64 import b64decode, urlsafe_b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agentgw.core.canonical import b64url
from agentgw.errors import AgentgwError

KEYRING_SERVICE = "agentgw"
"""The service under which the operating system's keyring knows wrapping keys."""

_HOW = "make one with: openssl rand -base64 32"
_KEY, _NONCE, _TAG = 32, 12, 16
_FILE_LIMIT = 1024
_MEMBERS = frozenset({"protected", "iv", "ciphertext", "tag"})


class WrappingKeyError(AgentgwError):
    """The wrapping key is missing, unusable or another than files were sealed under."""


@dataclass(frozen=True, slots=True)
class WrappingKey:
    """32 random bytes. `kid` tells keys apart without telling anything of them."""

    kid: str
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Wrapping:
    """Seals under `current`; opens what was sealed under that or under `previous`."""

    current: WrappingKey
    previous: WrappingKey | None = None

    def seal(self, plain: bytes, purpose: str, file: str) -> dict[str, Any]:
        """A flattened JWE JSON object (RFC 7516 section 7.2.2), `dir` and `A256GCM`."""
        header = _header(self.current.kid, purpose, file)
        protected = b64url(json.dumps(header).encode())
        nonce = os.urandom(_NONCE)
        sealed = AESGCM(self.current.secret).encrypt(nonce, plain, protected.encode("ascii"))
        return {
            "protected": protected,
            "iv": b64url(nonce),
            "ciphertext": b64url(sealed[:-_TAG]),
            "tag": b64url(sealed[-_TAG:]),
        }

    def open(self, jwe: Mapping[str, Any], purpose: str, file: str) -> bytes:
        """What was sealed for just this purpose and file.

        Raises WrappingKeyError where neither key is the one it was sealed under, ValueError where it was
        altered, cut, or sealed for another purpose or file.
        """
        kid = sealed_under(jwe)
        known = [key for key in (self.current, self.previous) if key is not None]
        key = next((key for key in known if key.kid == kid), None)
        if key is None:
            raise WrappingKeyError(
                f"the key file {file} is sealed under the wrapping key {kid}, and the one given is "
                f"{self.current.kid}: give that one, as keys.wrap or as its previous"
            )
        protected = str(jwe["protected"])
        if json.loads(_unb64url(protected)) != _header(kid, purpose, file):
            raise ValueError(file)
        try:
            data = _unb64url(jwe["ciphertext"]) + _unb64url(jwe["tag"])
            return AESGCM(key.secret).decrypt(_unb64url(jwe["iv"]), data, protected.encode("ascii"))
        except InvalidTag:
            raise ValueError(file) from None


def is_sealed(state: Mapping[str, Any]) -> bool:
    """Whether the JSON object of a key file is a JWE, or what is left of one."""
    return not state.keys().isdisjoint(_MEMBERS)


def sealed_under(jwe: Mapping[str, Any]) -> str:
    """The `kid` of the wrapping key. Raises ValueError or KeyError where there is none."""
    header = json.loads(_unb64url(jwe["protected"]))
    if not isinstance(header, dict) or not isinstance(header["kid"], str):
        raise ValueError("kid")
    return header["kid"][:64]


def wrapping_key(text: str, place: str) -> WrappingKey:
    """The key that `text` writes in base64, base64url or hex.

    `place` says in an error where the text came from. Raises WrappingKeyError.
    """
    text = text.strip()
    try:
        if len(text) == 2 * _KEY:
            secret = bytes.fromhex(text)
        else:
            padded = text + "=" * (-len(text) % 4)
            secret = b64decode(padded.replace("-", "+").replace("_", "/"), validate=True)
    except (ValueError, binascii.Error):
        secret = b""
    if len(secret) != _KEY:
        raise WrappingKeyError(f"{place} holds no 32 bytes in base64 or hex: {_HOW}")
    if len(set(secret)) < 8:
        raise WrappingKeyError(f"{place} holds no random bytes: {_HOW}")
    kid = hashlib.sha256(b"agentgw wrapping key id\0" + secret).digest()[:9]
    return WrappingKey(b64url(kid), secret)


def key_from_file(path: Path) -> WrappingKey:
    """The wrapping key in a file, which others may neither read nor change. Raises WrappingKeyError."""
    place = f"the wrapping key file {path}"
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise WrappingKeyError(f"{place} is no regular file")
            # A group may read it: that is how orchestrators hand secrets to a process.
            if status.st_mode & 0o027:
                raise WrappingKeyError(
                    f"{place} may be read or changed by others: chmod 600 it, and replace the key"
                )
            text = file.read(_FILE_LIMIT).decode("ascii")
    except OSError as error:
        raise WrappingKeyError(f"{place} cannot be read: {error.strerror}") from None
    except ValueError:
        text = ""
    return wrapping_key(text, place)


def key_from_environment(name: str, env: Mapping[str, str]) -> WrappingKey:
    """The wrapping key in the variable `name`. Raises WrappingKeyError."""
    if not env.get(name):
        raise WrappingKeyError(f"the wrapping key is missing: set the environment variable {name}")
    return wrapping_key(env[name], f"the environment variable {name}")


def key_from_keyring(name: str) -> WrappingKey:
    """The wrapping key that the OS keyring has for `agentgw` and `name`. Raises WrappingKeyError."""
    try:
        import keyring
        from keyring.errors import KeyringError
    except ImportError:
        raise WrappingKeyError(
            "the OS keyring needs an extra: pip install 'agentgw[keyring]'"
        ) from None
    try:
        text = keyring.get_password(KEYRING_SERVICE, name)
    except KeyringError as error:
        raise WrappingKeyError(
            f"the OS keyring does not answer ({type(error).__name__}): unlock or install one"
        ) from None
    if text is None:
        raise WrappingKeyError(
            f"the OS keyring holds no wrapping key: keyring set {KEYRING_SERVICE} {name}"
        )
    return wrapping_key(text, f"the entry {KEYRING_SERVICE} {name} of the OS keyring")


def _header(kid: str, purpose: str, file: str) -> dict[str, str]:
    return {"alg": "dir", "enc": "A256GCM", "kid": kid, "purpose": purpose, "file": file}


def _unb64url(text: Any) -> bytes:
    if not isinstance(text, str):
        raise ValueError("no base64url")
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
