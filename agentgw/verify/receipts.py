"""Actor receipts in a per-call token: the issuer's signed word on each hop (draft actor-receipts-00)."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

RECEIPT_TYP = "actor-receipt+jwt"


class ReceiptFault(ValueError):
    """Receipts that are not those of the token's chain."""


def compact_receipts(claims: Mapping[str, Any], agents: int, required: bool) -> Sequence[str]:
    """The receipts a token carries, as they were signed, the newest first. Raises ReceiptFault.

    `agents` is the length of the chain. Where `required`, there must be one for each.
    """
    found = claims.get("actor_receipts", [])
    complete = claims.get("actor_receipts_complete", False)
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise ReceiptFault("actor_receipts is no list of strings")
    if len(found) > agents:
        raise ReceiptFault("there are more receipts than agents")
    if not isinstance(complete, bool) or (complete and len(found) != agents):
        raise ReceiptFault("actor_receipts_complete is not true")
    if required and len(found) != agents:
        raise ReceiptFault("an agent of the chain has no receipt")
    return found


def check_receipts(
    compact: Sequence[str],
    receipts: Sequence[Mapping[str, Any]],
    claims: Mapping[str, Any],
    agents: Sequence[str],
) -> None:
    """Compare receipts, whose signatures hold, with the token's `claims` and its chain of `agents`.

    They cover the newest hops without a gap, name the token's subject and transaction, and link by
    hash; none allows more than the one before it, and the token no more than the newest. Raises
    ReceiptFault.
    """
    for at, receipt in enumerate(receipts):
        act = receipt.get("act")
        if not isinstance(act, dict) or act.get("sub") != agents[at] or "act" in act:
            raise ReceiptFault("a receipt is that of another agent")
        if any(receipt.get(name) != claims.get(name) for name in ("iss", "sub", "txn")):
            raise ReceiptFault("a receipt is that of another delegation")
        older = _hash(compact[at + 1]) if at + 1 < len(compact) else None
        if receipt.get("prh") != older:
            raise ReceiptFault("a receipt does not link to the next older one")
    for newer, older_one in pairwise(receipts):
        _check_within(newer, older_one)
    if receipts:
        _check_token_within(claims, receipts[0])


def _check_within(newer: Mapping[str, Any], older: Mapping[str, Any]) -> None:
    inner, outer = _bounds(newer), _bounds(older)
    reach = all(
        any(one == held or one.startswith(f"{held}/") for held in outer["resource"])
        for one in inner["resource"]
    )
    scopes = set(inner["scope"].split()) <= set(outer["scope"].split())
    if not (reach and scopes and _holds_to(inner, outer) and newer["exp"] <= older["exp"]):
        raise ReceiptFault("a receipt allows more than the one before it")


def _check_token_within(claims: Mapping[str, Any], newest: Mapping[str, Any]) -> None:
    scopes = set(claims.get("scope", "").split()) <= set(_bounds(newest)["scope"].split())
    if not scopes or claims["exp"] > newest["exp"]:
        raise ReceiptFault("the token allows more than its newest receipt")


def _holds_to(inner: Mapping[str, Any], outer: Mapping[str, Any]) -> bool:
    """Whether the one tool of the older bounds, if there is one, is that of the newer ones."""
    held, kept = outer.get("authorization_details"), inner.get("authorization_details")
    if held is None or held == kept:
        return True
    if not isinstance(kept, list) or not all(isinstance(item, dict) for item in kept):
        return False
    # Arguments may be fixed later, never freed or changed.
    freed = [
        {name: value for name, value in item.items() if name != "arguments_digest"} for item in kept
    ]
    return bool(freed == held)


def _bounds(receipt: Mapping[str, Any]) -> Mapping[str, Any]:
    bounds = receipt.get("bounds")
    if not isinstance(bounds, dict) or type(receipt.get("exp")) is not int:
        raise ReceiptFault("a receipt has no bounds or no exp")
    scope, resource = bounds.get("scope"), bounds.get("resource")
    if not isinstance(scope, str) or not isinstance(resource, list):
        raise ReceiptFault("a receipt's bounds lack scope or resource")
    if not all(isinstance(item, str) for item in resource):
        raise ReceiptFault("a receipt's bounds have a resource that is no string")
    return bounds


def _hash(receipt: str) -> str:
    digest = hashlib.sha256(receipt.encode("ascii", "replace")).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")
