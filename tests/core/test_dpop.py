"""What a DPoP proof must say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgw.core import dpop
from agentgw.errors import InvalidProof

NOW = 1_795_400_000
URL = "https://gw.example.com/mcp/time"
ATH = dpop.token_hash(b"token")


def claims(**changes: Any) -> dict[str, Any]:
    base = {"htm": "POST", "htu": URL, "iat": NOW, "jti": "j-1", "ath": ATH}
    return {name: value for name, value in {**base, **changes}.items() if value is not None}


def check(said: dict[str, Any], ath: str | None = ATH, now: float = NOW) -> dpop.ProofClaims:
    return dpop.check_claims(said, method="POST", url=URL, ath=ath, now=now, window=60)


def test_takes_a_proof_made_for_this_request() -> None:
    assert check(claims(nonce="n")) == dpop.ProofClaims("j-1", NOW, "n")
    assert check(claims(ath=None), ath=None).nonce is None
    assert check(claims(exp=NOW + 1, nbf=NOW)).jti == "j-1"


@pytest.mark.parametrize("iat", [NOW - 60, NOW + 60])
def test_takes_a_clock_within_the_window(iat: int) -> None:
    assert check(claims(iat=iat)).iat == iat


@pytest.mark.parametrize(
    "changes",
    [
        {"jti": None}, {"jti": ""}, {"jti": 1}, {"jti": "x" * 257},
        {"htm": None}, {"htm": "GET"}, {"htm": "post"}, {"htm": ["POST"]},
        {"htu": None}, {"htu": "https://gw.example.com/mcp"}, {"htu": [URL]}, {"htu": URL + "/"},
        {"iat": None}, {"iat": NOW - 61}, {"iat": NOW + 61}, {"iat": str(NOW)}, {"iat": float(NOW)},
        {"iat": True}, {"iat": 10**18}, {"ath": None}, {"ath": "x"}, {"ath": ATH + "="}, {"nonce": 1},
        {"exp": NOW}, {"exp": "x"}, {"exp": True}, {"nbf": NOW + 30}, {"nbf": []},
    ],
)  # fmt: skip
def test_refuses_a_proof_made_for_something_else(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidProof) as refused:
        check(claims(**changes))
    assert refused.value.error == "invalid_dpop_proof"


@pytest.mark.parametrize(
    "htu",
    [
        URL, URL + "?a=b", URL + "#f", "HTTPS://GW.Example.com/mcp/time",
        "https://gw.example.com:443/mcp/time", "https://gw.example.com/mcp/%74ime",
    ],
)  # fmt: skip
def test_one_target_in_other_spellings(htu: str) -> None:
    assert dpop.is_same_target(htu, URL)


@pytest.mark.parametrize(
    "htu",
    [
        "", "x", "http://gw.example.com/mcp/time", "https://gw.example.com/MCP/time",
        "https://gw.example.com:8443/mcp/time", "https://gw.example.com.evil.example/mcp/time",
        "https://user@gw.example.com/mcp/time", "https://gw.example.com@evil.example/mcp/time",
        "https://gw.example.com/mcp/time/", "https://gw.example.com/mcp%2Ftime", "/mcp/time",
        "https://gw.example.com/mcp/x/../time", "https://gw.example.com:x/mcp/time",
        "https://gw.example.com\t/mcp/time", "https://gw.example.com/mcp\\time", "https://[::1/mcp",
        "https://gw.example.com/mcp/time\n", "https://gw.example.com/mcp/tím\u0435",
    ],
)  # fmt: skip
def test_another_target(htu: str) -> None:
    assert not dpop.is_same_target(htu, URL)


@given(st.text(max_size=40))
def test_no_text_is_the_target_by_chance_or_breaks_the_rule(text: str) -> None:
    same = dpop.is_same_target(text, URL)
    assert not same or text.lower().startswith("https://gw.example.com")
    assert not dpop.is_same_target(f"https://{text}.example/mcp/time", URL)


def test_the_thumbprint_is_that_of_the_rfc() -> None:
    # RFC 7638 section 3.1.
    n = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXj"
        "BZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqz"
        "s8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ"
        "-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
    )
    jwk = {"kty": "RSA", "n": n, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"}
    assert dpop.thumbprint(jwk) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


@pytest.mark.parametrize(
    "jwk",
    [{}, {"kty": "oct", "k": "x"}, {"kty": ["EC"]}, {"kty": "EC", "crv": "P-256", "x": "x"},
     {"kty": "RSA", "n": 3, "e": "AQAB"}, {"kty": "OKP", "crv": "", "x": "x"}],
)  # fmt: skip
def test_no_thumbprint_of_what_is_no_public_key(jwk: dict[str, Any]) -> None:
    with pytest.raises(InvalidProof):
        dpop.thumbprint(jwk)
