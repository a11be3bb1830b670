"""Actor receipts: one signed word of the issuer for each hop it admitted, linked by hashes.

After draft-mcguinness-oauth-actor-receipts-00, which may change: the profile's name holds its version. A
token carries `actor_receipts` (compact JWTs, the newest first) and `actor_receipts_complete`. Each
receipt names one hop of `act`, what it was bound to (`bounds`), and by `prh` the next older receipt.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from agentgw.core.authorization_details import details_claim, details_of
from agentgw.core.canonical import b64url
from agentgw.core.delegation import act_claim
from agentgw.core.exchange_rules import Exchanged
from agentgw.core.principal import Hop, Issued
from agentgw.errors import InvalidToken

RECEIPT_TYP = "actor-receipt+jwt"
SIZE_LIMIT = 6 * 1024
"""Characters of receipts a token carries at most, since it must fit into a header with the rest."""


class Misaligned(ValueError):
    """Receipts that are not those of this chain; the text says in which way."""


def receipt_claims(issued: Issued, older: Sequence[str], issuer: str) -> dict[str, Any]:
    """The claims of the newest receipt of a token: that of its outermost hop, over the `older` ones."""
    claims: dict[str, Any] = {
        "iss": issuer,
        "sub": issued.subject.name,
        "act": act_claim(issued.chain[:1], issuer),
        "iat": issued.iat,
        "exp": issued.exp,
        "jti": f"{issued.jti}.r",
        "origin_jti": issued.jti,
        "txn": issued.txn,
        "bounds": _bounds(issued),
    }
    if older:
        claims |= {"prh": _hash(older[0]), "prh_alg": "sha-256"}
    return claims


def with_receipt(made: Exchanged, receipt: str) -> Exchanged:
    """The outcome of an exchange with its newest receipt, signed meanwhile, in front of the older ones."""
    issued = replace(made.issued, receipts=(receipt, *made.issued.receipts))
    claims = {**made.claims, **receipt_members(issued.receipts, issued.chain)}
    return replace(made, issued=issued, claims=claims, receipt=None)


def receipt_members(receipts: Sequence[str], chain: Sequence[Hop]) -> dict[str, Any]:
    """The two claims that carry receipts; too many for a header are left out whole, never in part."""
    if not receipts:
        return {}
    if is_too_large(receipts):
        return {"actor_receipts_complete": False}
    complete = len(receipts) == len(chain)
    return {"actor_receipts": list(receipts), "actor_receipts_complete": complete}


def is_too_large(receipts: Sequence[str]) -> bool:
    """Whether a token leaves these receipts out."""
    return sum(map(len, receipts)) > SIZE_LIMIT


def receipts_of(claims: Mapping[str, Any]) -> tuple[str, ...]:
    """The receipts a token carries, unread. Raises InvalidToken where they are no list of strings."""
    value = claims.get("actor_receipts", [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidToken("the token's actor_receipts are no list of strings")
    return tuple(value)


def check_alignment(
    receipts: Sequence[str], issued: Issued, origin_jti: str | None, issuer: str
) -> None:
    """Compare receipts with the token of ours that carries them, as the ledger has it.

    They cover the newest hops without a gap, name the same subject and transaction, link by hash, and
    none allows more than the one before it. Their signatures are not looked at here: they must be the
    ledger's own, byte for byte. Raises Misaligned.
    """
    if len(receipts) > len(issued.chain):
        raise Misaligned("there are more receipts than agents")
    claims = [_read(receipt) for receipt in receipts]
    for at, receipt in enumerate(claims):
        told = {
            "iss": issuer,
            "sub": issued.subject.name,
            "act": act_claim(issued.chain[at : at + 1], issuer),
            "txn": issued.txn,
            "prh": _hash(receipts[at + 1]) if at + 1 < len(receipts) else None,
        }
        for name, value in told.items():
            if receipt.get(name) != value:
                raise Misaligned(f"receipt {at + 1} has another {name}")
    if claims and claims[0].get("origin_jti") != origin_jti:
        raise Misaligned("the newest receipt was issued with another token")
    for newer, older in pairwise(claims):
        if not _within(newer, older):
            raise Misaligned("a receipt allows more than the one before it")


def _bounds(issued: Issued) -> dict[str, Any]:
    bounds: dict[str, Any] = {
        "scope": " ".join(sorted(issued.scopes)),
        "resource": sorted(issued.resources),
    }
    if issued.details is not None:
        bounds["authorization_details"] = details_claim(issued.details)
    return bounds


def _within(newer: Mapping[str, Any], older: Mapping[str, Any]) -> bool:
    inner, outer = newer["bounds"], older["bounds"]
    scopes = set(inner["scope"].split()) <= set(outer["scope"].split())
    reach = all(
        any(one == held or one.startswith(held + "/") for held in outer["resource"])
        for one in inner["resource"]
    )
    held, kept = details_of(outer), details_of(inner)
    tools = held is None or (kept is not None and held.includes(kept))
    return bool(scopes and reach and tools and newer["exp"] <= older["exp"])


def _hash(receipt: str) -> str:
    return b64url(hashlib.sha256(receipt.encode("ascii")).digest())


def _read(receipt: str) -> dict[str, Any]:
    try:
        part = receipt.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (IndexError, binascii.Error, ValueError):
        raise Misaligned("a receipt cannot be read") from None
    if not isinstance(claims, dict):
        raise Misaligned("a receipt cannot be read")
    return claims
