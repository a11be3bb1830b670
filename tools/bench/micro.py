"""Microseconds per operation of the small pieces on the call path: hot loops, best of five.

A running gateway pays about twice these figures (cold caches); they serve to compare two ways of
doing one thing, which is what docs/adr asks of them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from timeit import Timer
from typing import Any

import jwt
import orjson
import rfc8785
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from issuer import Issuer
from wire import CALL_BODY, SERVER, TOOL

from agentgw.core.canonical import b64url, canonical_json
from agentgw.mcp.message import encode, parse_message
from agentgw.sts.keys import ALGORITHMS, KeyRing
from agentgw.sts.mint import Minter

_KEY = ec.generate_private_key(ec.SECP256R1())
_NOW = int(time.time())
_GATEWAY = "https://gw.example.com"
_CLAIMS: dict[str, Any] = {
    "iss": _GATEWAY,
    "client_id": _GATEWAY,
    "aud": f"https://{SERVER}.example.com/mcp",
    "sub": "idp|alice",
    "act": {"iss": _GATEWAY, "sub": f"{_GATEWAY}/a2a/planner", "sub_profile": "ai_agent"},
    "scope": "tickets.read",
    "iat": _NOW,
    "nbf": _NOW,
    "exp": _NOW + 60,
    "jti": "5f0c1f3a9d7b4c2e8a6b0d1e2f3a4b5c",
    "txn": "t-01JD9YQK6T3E8V",
    "authorization_details": [
        {"type": "urn:agentgw:mcp-call:1", "actions": ["tools/call"], "identifier": TOOL}
    ],
}
_HEADER = b64url(b'{"alg":"ES256","kid":"k1","typ":"at+jwt"}').encode()
_DOCUMENT = json.loads(CALL_BODY)
_PARAMS = _DOCUMENT["params"]


def sign_directly() -> bytes:
    """A compact JWS of the claims by cryptography alone."""
    signed = _HEADER + b"." + base64.urlsafe_b64encode(orjson.dumps(_CLAIMS)).rstrip(b"=")
    r, s = decode_dss_signature(_KEY.sign(signed, ec.ECDSA(SHA256())))
    raw = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    return signed + b"." + base64.urlsafe_b64encode(raw).rstrip(b"=")


def sign_with_pyjwt() -> str:
    """The same by PyJWT."""
    return jwt.encode(_CLAIMS, _KEY, "ES256", headers={"kid": "k1", "typ": "at+jwt"})


def _minted() -> dict[str, Callable[[], object]]:
    """What `agentgw serve` signs with, by algorithm."""
    with tempfile.TemporaryDirectory() as folder:
        minter = Minter(KeyRing(Path(folder), algorithms=ALGORITHMS), _GATEWAY)
    return {f"sign, Minter {alg}": partial(minter.sign, _CLAIMS, alg=alg) for alg in ALGORITHMS}


def _verifications() -> dict[str, Callable[[], object]]:
    issuer = Issuer()
    token = issuer.user_token("https://idp.example.com", f"{_GATEWAY}/mcp")
    key = jwt.PyJWK(issuer.public_jwk())
    cache = {hashlib.sha256(token.encode()).digest(): (_NOW + 900, object())}

    def hit() -> object:
        exp, caller = cache[hashlib.sha256(token.encode()).digest()]
        return caller if exp > _NOW else None

    return {
        "verify, PyJWT": lambda: jwt.decode(token, key, ["ES256"], audience=f"{_GATEWAY}/mcp"),
        "verify, a cache hit (SHA-256, dict, exp)": hit,
    }


def operations() -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    return {
        "sign, PyJWT": sign_with_pyjwt,
        "sign, cryptography": sign_directly,
        **_minted(),
        **_verifications(),
        "JCS of params, own": lambda: canonical_json(_PARAMS),
        "JCS of params, rfc8785": lambda: rfc8785.dumps(_PARAMS),
        "parse, own strict": lambda: parse_message(CALL_BODY),
        "re-encode, own": lambda: encode(_DOCUMENT),
        "parse, json": lambda: json.loads(CALL_BODY),
        "parse, orjson": lambda: orjson.loads(CALL_BODY),
    }


def micros(operation: Callable[[], object]) -> float:
    """CPU-bound microseconds per call: the best of five loops of about 50 ms."""
    timer = Timer(operation)
    once = max(timer.timeit(100) / 100, 1e-8)
    loops = max(int(0.05 / once), 10)
    return min(timer.repeat(5, loops)) / loops * 1e6


def main() -> None:
    """Print the table."""
    width = max(map(len, operations()))
    for name, operation in operations().items():
        print(f"{name:<{width}}  {micros(operation):8.2f} us")


if __name__ == "__main__":
    main()
