"""The gateway's own keys: one file per purpose, readable by its user only.

Token keys rotate without a failed call: the next key is published long before it signs, the previous
ones stay published for `OVERLAP` seconds after.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agentgw.core.canonical import b64url
from agentgw.core.checkpoint import VerifierKey
from agentgw.errors import AgentgwError, Unavailable
from agentgw.sts.algorithms import ALGORITHMS, ES256, TokenKey
from agentgw.sts.key_files import KeyFiles, Stamp, told
from agentgw.sts.possession_key import possession_key
from agentgw.sts.token_ring import (
    NEXT_KEY_AGE,
    OVERLAP,
    Ring,
    checked,
    is_due,
    moved_out,
    new_ring,
    read_retired,
    read_rings,
    rotated,
    with_rings,
)
from agentgw.sts.wrapping import Wrapping

__all__ = ["ALGORITHMS", "NEXT_KEY_AGE", "OVERLAP", "KeyRing", "TokenKey"]

SECRETS = ("sessions", "dpop", "vault", "cookies", "client")
"""Purposes whose key is 32 random bytes that never leave the gateway: for AES-256-GCM, but of `dpop` and
`client`, from which keys to sign with are made."""


@dataclass(frozen=True, slots=True)
class _Loaded:
    """The token keys as read from their file, swapped whole."""

    rings: Mapping[str, Ring]
    signing: Mapping[str, TokenKey]
    published: Mapping[str, TokenKey]
    stamp: Stamp


class Device(Protocol):
    """Where keys lie that never leave it."""

    @property
    def keys(self) -> Mapping[str, tuple[TokenKey, ...]]:
        """The token keys in it by algorithm: the first signs, the others are published."""

    def close(self) -> None:
        """Let go of it."""


class KeyRing:
    """The keys under `state_dir/keys`, made on first start; several processes may share them.

    `log_name` is the name a new checkpoint key signs under (C2SP signed note); it stays with the key.
    `clock` gives Unix seconds. Files are sealed under `wrapping`, plain ones from before too: `sealed`
    names the purposes of those. Algorithms whose keys lie in `device` have none in a file. `problem` says
    why the token keys could not be read anew lately, if so. Raises Unavailable when the files cannot be
    read or written, WrappingKeyError where they are sealed under another key.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        log_name: str = "agentgw",
        clock: Callable[[], float] = time.time,
        algorithms: Iterable[str] = (ES256,),
        wrapping: Wrapping | None = None,
        device: Device | None = None,
    ) -> None:
        self._device = device
        self._in_device = {} if device is None else dict(device.keys)
        algorithms = [alg for alg in algorithms if alg not in self._in_device]
        self.problem: str | None = None
        self._files = KeyFiles(state_dir / "keys", wrapping)
        self._clock = clock
        self._looked = 0.0
        with told("read or make the keys"):
            self._files.prepare()
            with self._files.locked():
                self.sealed = self._files.settle()
                self._files.make("tokens", lambda: {"rings": self._new_rings(algorithms)})
                self._files.make("checkpoints", lambda: self._new_checkpoint(log_name))
            self._loaded = self._load()
            self._checkpoint = self._files.read("checkpoints")
        self._session = self.secret("sessions")
        self.need(algorithms)

    @property
    def current(self) -> TokenKey:
        """The ES256 key that signs now."""
        return self._loaded.signing[ES256]

    @property
    def signing(self) -> Mapping[str, TokenKey]:
        """The key that signs now, by algorithm; another mapping after each change."""
        return self._loaded.signing

    @property
    def rings(self) -> Mapping[str, Ring]:
        """All token keys, by algorithm."""
        return self._loaded.rings

    def key(self, kid: str) -> TokenKey | None:
        """The published key of that id, or None."""
        key = self._loaded.published.get(kid)
        return key if key is not None and self._is_published(key) else None

    def jwks(self) -> dict[str, Any]:
        """The public set (RFC 7517 section 5): current, next, and those of the overlap."""
        self.refresh()
        keys = self._loaded.published.values()
        return {"keys": [key.jwk() for key in keys if self._is_published(key)]}

    def need(self, algorithms: Iterable[str]) -> None:
        """Make keys for those of `algorithms` that have none yet. Raises Unavailable."""
        missing = [alg for alg in algorithms if alg not in self._loaded.signing]
        if not missing:
            return
        with told("make token keys"), self._files.locked():
            state = self._state()
            made = self._new_rings(alg for alg in missing if alg not in state["rings"])
            if made:
                self._files.write("tokens", with_rings(state, made))
            self._loaded = self._load()

    def rotate(self, min_age: int = NEXT_KEY_AGE, alg: str = ES256) -> TokenKey:
        """Make the next key current, publish a new next one, keep the old for `OVERLAP` seconds.

        Returns the key that signs from now on; other processes notice within a second. Where `alg` had
        no keys yet, they are made, and the first is returned. Raises AgentgwError while the next key was
        published less than `min_age` seconds ago.
        """
        if alg in self._in_device:
            raise AgentgwError(
                f"the {alg} keys lie in the HSM: make the next one there, and name it in keys.hsm.keys"
            )
        if alg not in self._loaded.rings:
            self.need([alg])
            return self._loaded.signing[alg]
        now = int(self._clock())
        with told("rotate the token keys"), self._files.locked():
            state = self._state()
            ring = state["rings"][alg]
            wait = ring["next"]["created"] + min_age - now
            if wait > 0:
                raise AgentgwError(
                    "the next key was published a moment ago, and tool servers may not know it yet: "
                    f"rotate again in {wait} s"
                )
            self._files.write("tokens", with_rings(state, {alg: rotated(ring, alg, now)}))
            self._loaded = self._load()
        return self._loaded.signing[alg]

    def rotate_due(self, every: float) -> list[TokenKey]:
        """Rotate what has signed for `every` seconds; returns the keys that sign from now on.

        Of several processes exactly one rotates; the others find it done. Raises Unavailable.
        """
        now = int(self._clock())
        if not any(is_due(ring, every, now) for ring in self._loaded.rings.values()):
            return []
        with told("rotate the token keys"), self._files.locked():
            state = self._state()
            due = [alg for alg, ring in read_rings(state).items() if is_due(ring, every, now)]
            if due:
                changed = {alg: rotated(state["rings"][alg], alg, now) for alg in due}
                self._files.write("tokens", with_rings(state, changed))
            self._loaded = self._load()
        return [self._loaded.signing[alg] for alg in due]

    def refresh(self) -> bool:
        """Read the token keys anew if their file changed; looks at most once a second."""
        now = time.monotonic()
        if now - self._looked < 1:
            return False
        self._looked = now
        try:
            if self._files.stamp("tokens") == self._loaded.stamp:
                return False
            with told("read the token keys anew"):
                fresh = self._load()
            if gone := ", ".join(self._loaded.signing.keys() - fresh.signing.keys()):
                raise Unavailable(f"the {gone} keys are gone from the file: restart, or restore it")
            self._loaded = fresh
        except (AgentgwError, OSError) as error:
            # The keys in memory are still good: an unreadable file must not stop signing.
            self.problem = str(error)
            return False
        self.problem = None
        return True

    def close(self) -> None:
        """Let go of the device, if there is one; nothing in it signs any more."""
        if self._device is not None:
            self._device.close()

    def use(self, wrapping: Wrapping | None) -> None:
        """Seal under `wrapping` from now on. Raises what __init__ does; nothing is changed then."""
        with told("seal the keys"), self._files.locked():
            self._files.use(wrapping)

    def seal_anew(self) -> list[str]:
        """Seal every file again, under the current wrapping key; returns their purposes."""
        with told("seal the keys"), self._files.locked():
            return self._files.settle(anew=True)

    def secret(self, purpose: str) -> bytes:
        """32 random bytes for one purpose and no other, made on first use; reads a file.

        Raises Unavailable, and ValueError for a purpose that has keys of another kind.
        """
        return self.secrets(purpose)[0]

    def secrets(self, purpose: str) -> tuple[bytes, ...]:
        """The secret of one purpose, and after it those it replaced, which open what they sealed.

        Raises as `secret`.
        """
        if purpose not in SECRETS:
            raise ValueError(f"{purpose} has no secret key")
        with told(f"read or make the {purpose} key"):
            with self._files.locked():
                self._files.make(purpose, self._new_secret)
            state = self._files.read(purpose)
            found = [state, *state.get("previous", [])]
            secrets = tuple(_bytes(each["current"]) for each in found)
            if any(len(secret) != 32 for secret in secrets):
                raise ValueError(purpose)
        return secrets

    def rotate_vault_key(self) -> str:
        """Seal credentials under a new key from the next start on; the replaced ones still open theirs.

        Returns the new key's id. Raises Unavailable.
        """
        self.secret("vault")
        with told("rotate the vault key"), self._files.locked():
            before = self._files.read("vault")
            state = self._new_secret()
            old = {"current": before["current"], "created": before.get("created")}
            state["previous"] = [old, *before.get("previous", [])]
            self._files.write("vault", state)
        return secret_kid(_bytes(state["current"]))

    def make_way_for_device(self) -> None:
        """Keep no private key in a file that could sign as one in the device does.

        For a gateway that starts: one that runs without the device would lose its keys.
        """
        with told("retire the keys in the file"), self._files.locked():
            state = self._state()
            if not state["rings"].keys().isdisjoint(self._in_device):
                now = int(self._clock())
                self._files.write("tokens", moved_out(state, self._in_device, now))
                self._loaded = self._load()

    def rotate_possession_key(self) -> TokenKey:
        """Make the key that proves possession to tool servers from the next start on. Raises Unavailable."""
        state = self._new_secret()
        with told("rotate the dpop key"), self._files.locked():
            self._files.write("dpop", state)
        return possession_key(_bytes(state["current"]), state["created"])

    def possession_key(self) -> TokenKey:
        """The key tokens with `actor_mode: gateway` are bound to, made on first use; reads a file."""
        return possession_key(self.secret("dpop"))

    def rotate_checkpoint_key(self) -> VerifierKey:
        """Make the checkpoint key that signs from the next start on; returns its public half.

        Of the replaced one the public half is kept, for `agentgw keys list` to name. Raises Unavailable.
        """
        with told("rotate the checkpoint key"), self._files.locked():
            before = self._files.read("checkpoints")
            old = checkpoint_vkey(before)
            retired = {
                "vkey": str(old),
                "created": before.get("created"),
                "retired": int(self._clock()),
            }
            state = self._new_checkpoint(old.name)
            state["previous"] = [retired, *before.get("previous", [])]
            self._files.write("checkpoints", state)
        return checkpoint_vkey(state)

    def checkpoint_key(self) -> tuple[Ed25519PrivateKey, str]:
        """The key that signs log checkpoints and the name it signs under."""
        return _checkpoint_key(self._checkpoint), str(self._checkpoint["name"])

    def session_key(self) -> bytes:
        """32 random bytes that seal session ids."""
        return self._session

    def _load(self) -> _Loaded:
        stamp = self._files.stamp("tokens")
        state = self._state()
        rings = read_rings(state)
        ours = [key for r in rings.values() for key in (r.current, r.next, *r.previous)]
        devices = [key for keys in self._in_device.values() for key in keys]
        published = {key.kid: key for key in (*devices, *ours, *read_retired(state))}
        signing = {alg: ring.current for alg, ring in rings.items()}
        signing |= {alg: keys[0] for alg, keys in self._in_device.items()}
        return _Loaded(rings, signing, published, stamp)

    def _state(self) -> dict[str, Any]:
        return checked(self._files.read("tokens"))

    def _is_published(self, key: TokenKey) -> bool:
        return key.retired is None or self._clock() - key.retired < OVERLAP

    def _new_rings(self, algorithms: Iterable[str]) -> dict[str, Any]:
        now = int(self._clock())
        return {alg: new_ring(alg, now) for alg in dict.fromkeys(algorithms)}

    def _new_checkpoint(self, name: str) -> dict[str, Any]:
        private = b64url(Ed25519PrivateKey.generate().private_bytes_raw())
        return {"name": name, "created": int(self._clock()), "current": private}

    def _new_secret(self) -> dict[str, Any]:
        return {"created": int(self._clock()), "current": b64url(secrets.token_bytes(32))}


def secret_kid(secret: bytes) -> str:
    """The name of a secret key; it tells nothing of it."""
    return b64url(hmac.digest(secret, b"agentgw key id", hashlib.sha256)[:12])


def checkpoint_vkey(state: dict[str, Any]) -> VerifierKey:
    """The public half of the checkpoint key in a file. Raises ValueError, KeyError or TypeError."""
    return VerifierKey(str(state["name"]), _checkpoint_key(state).public_key().public_bytes_raw())


def _checkpoint_key(state: dict[str, Any]) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(_bytes(state["current"]))


def _bytes(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
