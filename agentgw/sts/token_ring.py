"""The keys of one algorithm, as their file holds them: current, next and those of the overlap.

The file is `{rings, retired}`, both by algorithm. A ring is `{current, next, previous, since}`; `retired`
are keys of an algorithm that has its keys in a device now. Of a replaced key only the public half is kept:
it has nothing left to sign.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from agentgw.sts.algorithms import (
    ALGORITHMS,
    ES256,
    TokenKey,
    check_fits,
    generate,
    kid_of,
    signer,
)

OVERLAP = 25 * 3600
"""Seconds a replaced key stays published: more than our longest token lives, and caches with it."""


NEXT_KEY_AGE = 60
"""Seconds a key is published before it may sign: verifiers ask for new keys only so often."""


@dataclass(frozen=True, slots=True)
class Ring:
    """The keys of one algorithm; `current` signs since the Unix second `since`."""

    current: TokenKey
    next: TokenKey
    previous: tuple[TokenKey, ...]
    since: int


def checked(state: dict[str, Any]) -> dict[str, Any]:
    """The file's content as it is written today. Raises ValueError or KeyError where it is damaged."""
    # As it was when there was one algorithm.
    state = {"rings": {ES256: state}} if "current" in state else state
    rings, retired = state["rings"], state.get("retired", {})
    if not rings.keys() | retired.keys() <= set(ALGORITHMS):
        raise ValueError("an unknown algorithm")
    return {"rings": {alg: rings[alg] for alg in ALGORITHMS if alg in rings}, "retired": retired}


def with_rings(state: dict[str, Any], rings: dict[str, Any]) -> dict[str, Any]:
    """The file's content with these rings new or changed."""
    return {**state, "rings": state["rings"] | rings}


def moved_out(state: dict[str, Any], algorithms: Iterable[str], now: int) -> dict[str, Any]:
    """The file's content once these algorithms have their keys elsewhere: public halves for the overlap."""
    rings, retired = dict(state["rings"]), dict(state["retired"])
    for alg in algorithms:
        if (ring := rings.pop(alg, None)) is not None:
            retired[alg] = [_retired(ring["current"], alg, now), *ring["previous"]]
    return {"rings": rings, "retired": retired}


def new_ring(alg: str, now: int) -> dict[str, Any]:
    """A ring with fresh keys, made at Unix second `now`."""
    current, following = new_entry(alg, now), new_entry(alg, now)
    return {"current": current, "next": following, "previous": [], "since": now}


def new_entry(alg: str, now: int) -> dict[str, Any]:
    """A fresh key as its file holds it."""
    pem = generate(alg).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return {"created": now, "pem": pem.decode("ascii")}


def rotated(ring: dict[str, Any], alg: str, now: int) -> dict[str, Any]:
    """The ring after a rotation: the next key signs, a new one follows, the old only verifies.

    Raises ValueError for a ring that holds no sound keys.
    """
    retired = _retired(ring["current"], alg, now)
    kept = [entry for entry in ring["previous"] if now - entry["retired"] < OVERLAP]
    return {
        "current": ring["next"],
        "next": new_entry(alg, now),
        "previous": [retired, *kept],
        "since": now,
    }


def is_due(ring: Ring, every: float, now: float) -> bool:
    """Whether the current key has signed for `every` seconds and the next one may follow it."""
    return now >= ring.since + every and now >= ring.next.created + NEXT_KEY_AGE


def read_rings(state: dict[str, Any]) -> dict[str, Ring]:
    """The rings of a checked file. Raises ValueError, KeyError or TypeError where it is damaged."""
    return {alg: read_ring(ring, alg) for alg, ring in state["rings"].items()}


def read_retired(state: dict[str, Any]) -> list[TokenKey]:
    """The keys that a device took over from. Raises what `read_rings` does."""
    return [read_key(alg, entry) for alg in state["retired"] for entry in state["retired"][alg]]


def read_ring(ring: dict[str, Any], alg: str) -> Ring:
    """The keys of a ring. Raises ValueError, KeyError or TypeError where it is damaged."""
    current = read_key(alg, ring["current"])
    return Ring(
        current,
        read_key(alg, ring["next"]),
        tuple(read_key(alg, entry) for entry in ring["previous"]),
        int(ring.get("since", current.created)),
    )


def read_key(alg: str, entry: dict[str, Any]) -> TokenKey:
    """One key as its file holds it. Raises ValueError, KeyError or TypeError where it is damaged."""
    created, retired = int(entry["created"]), entry.get("retired")
    if "public" in entry:
        public = check_fits(alg, load_pem_public_key(entry["public"].encode("ascii")))
        return TokenKey(kid_of(public), alg, public, created, int(entry["retired"]))
    private: Any = load_pem_private_key(entry["pem"].encode("ascii"), None)
    public = check_fits(alg, private.public_key())
    sign = signer(private) if retired is None else None
    return TokenKey(kid_of(public), alg, public, created, retired, sign)


def _retired(entry: dict[str, Any], alg: str, now: int) -> dict[str, Any]:
    old = read_key(alg, entry)
    public = old.public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return {"created": old.created, "retired": now, "public": public.decode("ascii")}
