from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgw.errors import InvalidToken
from agentgw.identity import jose
from agentgw.identity.jose import split, split_compact, strict_json, verify
from agentgw.identity.jwk import UnusableKey, bind_key, read_jwk
from tests.identity.forge import acme_token, b64, ec_key, ed_key, jwk, rsa_key, sign, sign_raw

VECTORS = Path(__file__).resolve().parents[2].parent / "shared" / "vectors" / "wycheproof"

MISLABELLED = {
    367: "byte for byte the valid token of tc357",
    370: "byte for byte the valid token of tc357",
}
STRICTER = {
    346: "the key says PS256, the token PS384: we hold a key to its alg",
    350: "the key says PS256, the token PS384: we hold a key to its alg",
    347: "the key says ES521, which is no JWS algorithm",
    351: "the key says ES521, which is no JWS algorithm",
}


def wycheproof(name: str) -> list[dict[str, Any]]:
    path = VECTORS / name
    if not path.exists():
        return []
    cases: list[dict[str, Any]] = []
    for group in json.loads(path.read_text())["testGroups"]:
        keys = group.get("public", group["private"])
        members = keys.get("keys", [keys])
        cases += [{**case, "keys": members} for case in group["tests"]]
    return cases


def accepts(case: dict[str, Any]) -> bool:
    """What a gateway that trusted the vector's key or key set would say."""
    jws = case["jws"] if isinstance(case["jws"], str) else json.dumps(case["jws"])
    try:
        token = split_compact(jws, 1 << 20)
    except InvalidToken:
        return False
    usable = []
    for member in case["keys"]:
        try:
            usable.append(read_jwk(member))
        except UnusableKey:
            continue
    fitting = [key for key in usable if key.kid == token.kid and token.alg in key.algorithms]
    if len(fitting) != 1:
        return False
    try:
        verify(token, fitting[0])
    except InvalidToken:
        return False
    return True


@pytest.mark.parametrize(
    ("name", "total"), [("json_web_signature_test.json", 401), ("json_web_key_test.json", 26)]
)
def test_accepts_no_invalid_wycheproof_vector(name: str, total: int) -> None:
    cases = wycheproof(name)
    if not cases:
        pytest.skip("the Wycheproof vectors are not beside this checkout")
    assert len(cases) == total
    assert [case["tcId"] for case in cases if case["result"] == "invalid" and accepts(case)] == []


def test_accepts_the_valid_wycheproof_vectors_of_our_algorithms() -> None:
    cases = wycheproof("json_web_signature_test.json") + wycheproof("json_web_key_test.json")
    if not cases:
        pytest.skip("the Wycheproof vectors are not beside this checkout")
    valid = [
        case for case in cases if case["result"] == "valid" and case["keys"][0]["kty"] != "oct"
    ]
    refused = {case["tcId"] for case in valid if not accepts(case)}
    assert len(valid) > 30
    assert refused == STRICTER.keys()


def test_the_mislabelled_wycheproof_vectors_are_what_we_say_they_are() -> None:
    cases = {case["tcId"]: case for case in wycheproof("json_web_signature_test.json")}
    if not cases:
        pytest.skip("the Wycheproof vectors are not beside this checkout")
    for number in MISLABELLED:
        assert cases[number]["jws"] == cases[357]["jws"]
        assert cases[number]["result"] == "invalid"


@pytest.mark.parametrize(
    ("key", "alg"),
    [
        (ec_key(), "ES256"),
        (ed_key(), "EdDSA"),
        (rsa_key(), "RS256"),
        (rsa_key(), "RS512"),
        (rsa_key(), "PS384"),
    ],
)
def test_verifies_what_each_kind_of_key_signed(key: Any, alg: str) -> None:
    token = split(acme_token(key, alg=alg))
    verify(token, read_jwk(jwk(key, alg=alg)))
    verify(token, bind_key(key.public_key()))
    assert token.claims["sub"] == "alice"
    assert (token.alg, token.kid, token.typ) == (alg, "k1", "at+jwt")


def test_ed25519_and_eddsa_are_one_algorithm() -> None:
    header = {"alg": "Ed25519", "kid": "k1", "typ": "JWT"}
    token = split(acme_token(ed_key(), header, "EdDSA"))
    verify(token, read_jwk(jwk(ed_key(), alg="EdDSA")))
    assert token.typ == "jwt"


def test_reads_the_application_prefix_of_typ_away() -> None:
    header = {"alg": "ES256", "typ": "application/AT+JWT"}
    assert split(acme_token(header=header)).typ == "at+jwt"


def test_a_token_of_exactly_the_limit_is_read() -> None:
    token = acme_token()
    assert split(token, limit=len(token)).claims["sub"] == "alice"
    with pytest.raises(InvalidToken, match="larger"):
        split(token, limit=len(token) - 1)


@pytest.mark.parametrize(
    "payload",
    [
        b'{"sub":"a","sub":"b"}',
        b'{"a":{"x":1,"\\u0078":2}}',
        b'{"exp":NaN}',
        b'{"exp":Infinity}',
        b'{"exp":1e999}',
        b'{"exp":' + b"9" * 21 + b"}",
        b'{"exp":' + b"9" * 5000 + b"}",
        b'{"sub":"\\ud800"}',
        b'{"sub":"\xed\xa0\x80"}',
        b'{"sub":"\xff"}',
        b'\xef\xbb\xbf{"sub":"a"}',
        '{"sub":"a"}'.encode("utf-16"),
        b'{"sub":"a"} {}',
        b'{"sub":"a",}',
        b'{"sub":"a\nb"}',
        b"{'sub':'a'}",
        b"[]",
        b'"a"',
        b"null",
        b"",
        b'{"a":' * 25 + b"1" + b"}" * 25,
        b"[" * 12_000,
    ],
)
def test_refuses_claims_that_parsers_read_differently(payload: bytes) -> None:
    with pytest.raises(InvalidToken) as refusal:
        split(sign(ec_key(), payload), limit=1 << 20)
    assert len(refusal.value.reason) < 200


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**20 - 1, 10**30])
def test_refuses_integers_that_no_token_of_ours_could_repeat(number: int) -> None:
    with pytest.raises(InvalidToken, match="64 bits"):
        strict_json(b'{"auth_time":%d}' % number, 24, "claims")


def test_depth_is_counted_outside_of_strings_only() -> None:
    assert strict_json(b'{"a":"' + b"[{" * 100 + b'\\""}', 24, "claims")
    assert strict_json(b'{"a":' * 23 + b"[]" + b"}" * 23, 24, "claims")
    assert strict_json(b"[" + b"[]," * 50 + b"1]", 24, "claims")


@pytest.mark.parametrize("body", [b'"' + b'\\"' * 100_000, b"1," * 100_000, b'"a",' * 50_000])
def test_depth_is_counted_in_linear_time(body: bytes) -> None:
    started = time.process_time()
    with pytest.raises(InvalidToken):
        strict_json(b"[]," * 30 + body, 24, "claims")
    assert time.process_time() - started < 0.5


@given(st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(st.characters(codec="utf-8"))
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
))  # fmt: skip
def test_strict_json_reads_plain_values_as_everybody_does(value: Any) -> None:
    try:
        text = json.dumps(value).encode()
        text.decode().encode()
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return
    assert strict_json(text, 64, "claims") == value


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_and_never_crash(data: bytes) -> None:
    with pytest.raises(InvalidToken):
        split(data)


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_any_header_and_payload_bytes_never_crash(header: bytes, payload: bytes) -> None:
    with pytest.raises(InvalidToken):
        split(sign_raw(b"x" * 64, header, payload, "HS256"))


@pytest.mark.parametrize(
    "members",
    [
        {"use": "enc"},
        {"key_ops": ["encrypt"]},
        {"key_ops": "verify"},
        {"alg": "ES384"},
        {"alg": "RS256"},
        {"alg": "none"},
        {"alg": 7},
        {"kty": "oct", "k": "AAAA"},
        {"kty": "RSA"},
        {"kty": ["EC"]},
        {"crv": "P-384"},
        {"crv": "secp256k1"},
        {"x": "AAAA"},
        {"y": 5},
        {"y": None},
        {"d": "AAAA"},
        {"kid": 7},
    ],
)
def test_skips_keys_that_may_not_verify(members: dict[str, Any]) -> None:
    with pytest.raises(UnusableKey):
        read_jwk({**jwk(ec_key()), **members})


def test_refuses_weak_rsa_keys() -> None:
    good = rsa_key().public_key().public_numbers()
    with pytest.raises(UnusableKey, match="2048"):
        read_jwk(jwk(rsa_key(1024)))
    for exponent in (b"\x01", b"\x04", b"\xff" * 40):
        with pytest.raises(UnusableKey):
            read_jwk({"kty": "RSA", "n": b64(good.n.to_bytes(256, "big")), "e": b64(exponent)})


def test_a_key_is_bound_to_its_own_algorithm() -> None:
    token = split(acme_token(rsa_key(), alg="RS256"))
    with pytest.raises(InvalidToken, match="alg"):
        verify(token, read_jwk(jwk(rsa_key(), alg="PS256")))
    with pytest.raises(InvalidToken, match="alg"):
        verify(token, bind_key(ec_key().public_key()))


def test_no_symmetric_algorithm_is_listed() -> None:
    assert not [alg for alg in jose.ALGORITHMS if alg.startswith("HS") or alg.lower() == "none"]
