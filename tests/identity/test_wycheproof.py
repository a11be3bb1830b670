"""The JWS and JWK vectors of C2SP/wycheproof against our decoder and our key reader."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from agentgw.errors import InvalidToken
from agentgw.identity import jose
from agentgw.identity.jwk import UnusableKey
from agentgw.identity.oidc import IssuerUnusable, read_key_set
from tests.vectors import read_vectors

FILES = ("json_web_key_test", "json_web_signature_test")

MISLABELLED = {
    346: ("PS256", "the key says alg PS256 and the token PS384: a key has one algorithm"),
    350: ("PS256", "as 346"),
    347: ("ES521", "the key says alg ES521, which is none: P-521 goes with ES512"),
    351: ("ES521", "as 347"),
}
"""Vectors called valid that we refuse: by tcId, what their key says as alg, and why that is wrong."""

NOT_BASE64URL = {
    372: "a ? stands in the header: RFC 7515 section 2 has no such character",
    373: "a ? stands in the payload",
}
"""Vectors called valid whose text is none of base64url, and so no compact JWS (HMAC besides)."""


@dataclass(frozen=True)
class Vector:
    number: int
    jws: str
    keys: tuple[Mapping[str, Any], ...]
    valid: bool
    comment: str

    @property
    def hmac(self) -> bool:
        return any(key.get("kty") == "oct" for key in self.keys)


def vectors() -> Iterator[Vector]:
    for file in FILES:
        for group in read_vectors(f"wycheproof/{file}.json")["testGroups"]:
            source = group.get("public", group["private"])
            keys = tuple(source["keys"] if "keys" in source else [source])
            for test in group["tests"]:
                jws = test["jws"] if isinstance(test["jws"], str) else json.dumps(test["jws"])
                comment = f"{file} {test['tcId']}: {group['comment']}, {test['comment']}"
                valid = test["result"] == "valid"
                number = test["tcId"] if file == FILES[1] else -test["tcId"]
                yield Vector(number, jws, keys, valid, comment)


def accepts(jws: str, keys: tuple[Mapping[str, Any], ...]) -> bool:
    try:
        token = jose.split_compact(jws)
        usable = [key for key in read_key_set({"keys": list(keys)}) if key.kid == token.kid]
        if len(usable) != 1:
            return False
        jose.verify(token, usable[0])
    except (InvalidToken, IssuerUnusable, UnusableKey):
        return False
    return True


def test_no_invalid_vector_is_accepted() -> None:
    invalid = [vector for vector in vectors() if not vector.valid]
    assert len(invalid) >= 300
    assert [vector.comment for vector in invalid if accepts(vector.jws, vector.keys)] == []


def test_valid_vectors_are_accepted_where_the_algorithm_is_ours() -> None:
    valid = [vector for vector in vectors() if vector.valid and not vector.hmac]
    assert len(valid) >= 35
    refused = {vector.number for vector in valid if not accepts(vector.jws, vector.keys)}
    assert refused == set(MISLABELLED)


def test_symmetric_keys_never_verify_anything() -> None:
    hmac = [vector for vector in vectors() if vector.hmac]
    assert {vector.number for vector in hmac if vector.valid} > set(NOT_BASE64URL)
    assert [vector.comment for vector in hmac if accepts(vector.jws, vector.keys)] == []


@pytest.mark.parametrize("number", MISLABELLED)
def test_a_mislabelled_vector_is_accepted_once_its_key_says_the_truth(number: int) -> None:
    vector = next(vector for vector in vectors() if vector.number == number)
    (key,) = vector.keys
    assert key["alg"] == MISLABELLED[number][0]
    untold = {name: value for name, value in key.items() if name != "alg"}
    assert accepts(vector.jws, (untold,))


@pytest.mark.parametrize("number", NOT_BASE64URL)
def test_a_vector_outside_base64url_is_no_compact_jws(number: int) -> None:
    vector = next(vector for vector in vectors() if vector.number == number)
    # The decoder judges the algorithm first; under one of ours the encoding is what it refuses.
    header, payload, signature = vector.jws.split(".")
    ours = "eyJhbGciOiJFUzI1NiJ9"
    broken = f"{ours[:8]}?{ours[8:]}" if "?" in header else ours
    with pytest.raises(InvalidToken, match="base64url"):
        jose.split_compact(f"{broken}.{payload}.{signature}")
