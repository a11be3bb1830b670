"""What keys there are, for an operator's eyes: never a secret, and nothing is made by looking."""

from __future__ import annotations

from base64 import urlsafe_b64decode
from dataclasses import dataclass
from typing import Any

from agentgw.core.checkpoint import VerifierKey, parse_vkey
from agentgw.sts.algorithms import TokenKey
from agentgw.sts.key_files import KeyFiles, told
from agentgw.sts.keys import Device, checkpoint_vkey, secret_kid
from agentgw.sts.own_client import OwnClient
from agentgw.sts.possession_key import possession_key
from agentgw.sts.token_ring import checked, read_retired, read_rings


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """One key: `created` and `retired` are Unix seconds (None: not known, not retired).

    `state` is current, next, retired, or in a device published. `sealed_under` is the kid of the wrapping
    key, None for a plain file; `place` is file or hsm.
    """

    purpose: str
    alg: str
    kid: str
    state: str
    created: int | None
    retired: int | None
    sealed_under: str | None
    place: str = "file"


def inventory(files: KeyFiles) -> list[KeyInfo]:
    """Every key in the files. Raises Unavailable or WrappingKeyError where they cannot be read."""
    found: list[KeyInfo] = []
    with told("read the keys"):
        for purpose in files.purposes():
            sealed, state = files.sealed_under(purpose), files.read(purpose)
            if purpose == "tokens":
                found += _token_keys(state, sealed)
            elif purpose == "checkpoints":
                found += _checkpoint_keys(state, sealed)
            elif purpose == "dpop":
                kid = possession_key(_bytes(state["current"])).kid
                created = state.get("created")
                found.append(KeyInfo(purpose, "ES256", kid, "current", created, None, sealed))
            elif purpose == "client":
                kid = OwnClient(_bytes(state["current"])).kid
                created = state.get("created")
                found.append(KeyInfo(purpose, "ES256", kid, "current", created, None, sealed))
            else:
                found += _secret_keys(purpose, state, sealed)
    return found


def device_inventory(device: Device) -> list[KeyInfo]:
    """Every token key in a device."""
    return [
        KeyInfo("tokens", key.alg, key.kid, name, None, None, None, "hsm")
        for keys in device.keys.values()
        for key, name in zip(keys, ("current", *["published"] * len(keys)), strict=False)
    ]


def checkpoint_keys(files: KeyFiles) -> list[VerifierKey]:
    """The public keys that the log's checkpoints may be signed with. Raises as `inventory` does."""
    with told("read the keys"):
        if "checkpoints" not in files.purposes():
            return []
        state = files.read("checkpoints")
        previous = [parse_vkey(old["vkey"]) for old in state.get("previous", [])]
        return [checkpoint_vkey(state), *previous]


def _token_keys(state: dict[str, Any], sealed: str | None) -> list[KeyInfo]:
    def info(key: TokenKey, name: str) -> KeyInfo:
        return KeyInfo("tokens", key.alg, key.kid, name, key.created, key.retired, sealed)

    state = checked(state)
    held = [
        row
        for ring in read_rings(state).values()
        for row in (
            info(ring.current, "current"),
            info(ring.next, "next"),
            *(info(key, "retired") for key in ring.previous),
        )
    ]
    return held + [info(key, "retired") for key in read_retired(state)]


def _checkpoint_keys(state: dict[str, Any], sealed: str | None) -> list[KeyInfo]:
    def info(vkey: VerifierKey, name: str, entry: dict[str, Any]) -> KeyInfo:
        # As a vkey and a signed note name it (C2SP signed-note).
        kid = f"{vkey.name}+{vkey.key_hash.hex()}"
        created, retired = entry.get("created"), entry.get("retired")
        return KeyInfo("checkpoints", "EdDSA", kid, name, created, retired, sealed)

    return [
        info(checkpoint_vkey(state), "current", state),
        *(info(parse_vkey(old["vkey"]), "retired", old) for old in state.get("previous", [])),
    ]


def _secret_keys(purpose: str, state: dict[str, Any], sealed: str | None) -> list[KeyInfo]:
    def info(entry: dict[str, Any], name: str) -> KeyInfo:
        kid, created = secret_kid(_bytes(entry["current"])), entry.get("created")
        return KeyInfo(purpose, "A256GCM", kid, name, created, None, sealed)

    return [info(state, "current"), *(info(old, "retired") for old in state.get("previous", []))]


def _bytes(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
