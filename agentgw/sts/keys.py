"""The gateway's own keys: one file per purpose, readable by its user only.

Token keys rotate without a failed call: the next key is published long before it signs, the previous
ones stay published for `OVERLAP` seconds after.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import secrets
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from agentgw.core.canonical import b64url, canonical_json
from agentgw.errors import AgentgwError, Unavailable

OVERLAP = 25 * 3600
"""Seconds a replaced key stays published: more than our longest token lives, and caches with it."""

NEXT_KEY_AGE = 60
"""Seconds a key is published before it may sign: verifiers ask for new keys only so often."""


@dataclass(frozen=True, slots=True)
class TokenKey:
    """One ES256 key: `kid` is its RFC 7638 thumbprint, `created` and `retired` are Unix seconds."""

    kid: str
    private: EllipticCurvePrivateKey = field(repr=False)
    created: int
    retired: int | None = None

    @property
    def public(self) -> EllipticCurvePublicKey:
        return self.private.public_key()

    def jwk(self) -> dict[str, Any]:
        """The public key as a JWK (RFC 7517), bound to its one use and algorithm."""
        return {**_public_members(self.private), "kid": self.kid, "use": "sig", "alg": "ES256"}


class KeyRing:
    """The keys under `state_dir/keys`, made on first start; several processes may share them.

    `log_name` is the name a new checkpoint key signs under (C2SP signed note); it stays with the key.
    `clock` gives Unix seconds. Raises Unavailable when the files cannot be read or written.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        log_name: str = "agentgw",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = state_dir / "keys"
        self._clock = clock
        self._tokens_file = self._folder / "tokens.json"
        self._looked = 0.0
        with _told("read or make the keys"):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder.chmod(0o700)
            with self._locked():
                self._make("tokens", self._new_token_file)
                self._make("checkpoints", lambda: _new_checkpoint_file(log_name))
                self._make("sessions", lambda: {"current": b64url(secrets.token_bytes(32))})
            self._load()
            self._checkpoint = _read(self._folder / "checkpoints.json")
            self._session = _bytes(_read(self._folder / "sessions.json")["current"])

    @property
    def current(self) -> TokenKey:
        """The key that signs now."""
        return self._current

    def key(self, kid: str) -> TokenKey | None:
        """The published key of that id, or None."""
        return self._published.get(kid)

    def jwks(self) -> dict[str, Any]:
        """The public set (RFC 7517 section 5): current, next, and those of the overlap."""
        self.refresh()
        return {"keys": [key.jwk() for key in self._published.values()]}

    def rotate(self, min_age: int = NEXT_KEY_AGE) -> TokenKey:
        """Make the next key current, publish a new next one, keep the old for `OVERLAP` seconds.

        Returns the key that signs from now on; other processes notice within a second. Raises
        AgentgwError while the next key was published less than `min_age` seconds ago.
        """
        now = int(self._clock())
        with _told("rotate the token keys"), self._locked():
            state = _read(self._tokens_file)
            wait = state["next"]["created"] + min_age - now
            if wait > 0:
                raise AgentgwError(
                    "the next key was published a moment ago, and tool servers may not know it yet: "
                    f"rotate again in {wait} s"
                )
            retired = {**state["current"], "retired": now}
            kept = [old for old in state["previous"] if now - old["retired"] < OVERLAP]
            state = {
                "current": state["next"],
                "next": _new_token_entry(now),
                "previous": [retired, *kept],
            }
            _write(self._tokens_file, state)
            self._load()
        return self._current

    def refresh(self) -> bool:
        """Read the token keys anew if their file changed; looks at most once a second."""
        now = time.monotonic()
        if now - self._looked < 1:
            return False
        self._looked = now
        try:
            if _stamp(self._tokens_file) == self._stamp:
                return False
            self._load()
        except (OSError, ValueError, KeyError, TypeError):
            # The keys in memory are still good: an unreadable file must not stop signing.
            return False
        return True

    async def watch(self) -> None:
        """Refresh for ever, once a second: the app runs this beside its servers."""
        while True:
            await asyncio.sleep(1.05)
            self.refresh()

    def checkpoint_key(self) -> tuple[Ed25519PrivateKey, str]:
        """The key that signs log checkpoints and the name it signs under."""
        private = Ed25519PrivateKey.from_private_bytes(_bytes(self._checkpoint["current"]))
        return private, str(self._checkpoint["name"])

    def session_key(self) -> bytes:
        """32 random bytes that seal session ids."""
        return self._session

    def _load(self) -> None:
        stamp = _stamp(self._tokens_file)
        state = _read(self._tokens_file)
        current = _token_key(state["current"])
        ring = [current, _token_key(state["next"]), *map(_token_key, state["previous"])]
        self._current, self._published = current, {key.kid: key for key in ring}
        self._stamp = stamp

    def _new_token_file(self) -> dict[str, Any]:
        now = int(self._clock())
        return {
            "current": _new_token_entry(now),
            "next": _new_token_entry(now),
            "previous": [],
        }

    def _make(self, purpose: str, content: Callable[[], dict[str, Any]]) -> None:
        file = self._folder / f"{purpose}.json"
        if not file.exists():
            _write(file, content())
        elif file.stat().st_mode & 0o077:
            raise Unavailable(
                f"the key file {file.name} may be read by others: chmod 600 it, and replace the key"
            )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        handle = os.open(self._folder / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


@contextmanager
def _told(purpose: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise Unavailable(f"cannot {purpose}: {error.strerror}{where}") from error
    except (ValueError, KeyError, TypeError) as error:
        # The parser's own words could quote the file.
        raise Unavailable(
            f"cannot {purpose}: a key file is damaged; restore it from a backup"
        ) from (error if isinstance(error, KeyError) else None)


def _stamp(file: Path) -> tuple[int, int, int]:
    status = file.stat()
    return status.st_mtime_ns, status.st_ino, status.st_size


def _read(file: Path) -> dict[str, Any]:
    state = json.loads(file.read_bytes())
    if not isinstance(state, dict):
        raise ValueError(file.name)
    return state


def _write(file: Path, state: dict[str, Any]) -> None:
    """Replace the file whole: a reader sees the old keys or the new, never a part."""
    fresh = file.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    handle = os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as out:
        out.write(json.dumps(state, indent=1).encode())
        out.flush()
        os.fsync(out.fileno())
    fresh.replace(file)
    folder = os.open(file.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _new_token_entry(now: int) -> dict[str, Any]:
    pem = generate_private_key(SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    return {"created": now, "pem": pem.decode("ascii")}


def _new_checkpoint_file(name: str) -> dict[str, Any]:
    return {"name": name, "current": b64url(Ed25519PrivateKey.generate().private_bytes_raw())}


def _token_key(entry: dict[str, Any]) -> TokenKey:
    private = load_pem_private_key(entry["pem"].encode("ascii"), None)
    if not isinstance(private, EllipticCurvePrivateKey) or private.curve.name != "secp256r1":
        raise ValueError("a token key is no P-256 key")
    thumbprint = hashlib.sha256(canonical_json(_public_members(private))).digest()
    return TokenKey(b64url(thumbprint), private, int(entry["created"]), entry.get("retired"))


def _public_members(private: EllipticCurvePrivateKey) -> dict[str, str]:
    point = private.public_key().public_numbers()
    return {
        "kty": "EC",
        "crv": "P-256",
        "x": b64url(point.x.to_bytes(32, "big")),
        "y": b64url(point.y.to_bytes(32, "big")),
    }


def _bytes(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
