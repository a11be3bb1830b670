"""The gateway's own key at another authorization server."""

from __future__ import annotations

from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from agentgw.sts.client_assertion import client_assertion, read_client_key

NOW = 1_800_000_000.5
KEYS: dict[str, Any] = {
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "RS256": rsa.generate_private_key(65537, 2048),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


def pem(key: Any) -> bytes:
    data: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return data


@pytest.mark.parametrize("alg", KEYS)
def test_an_assertion_is_for_one_server_one_use_and_a_minute(alg: str) -> None:
    key = read_client_key(pem(KEYS[alg]), "k1")
    made = client_assertion(key, "gateway", "https://idp.example", NOW, "j1")
    options: Any = {"verify_exp": False, "verify_iat": False}
    claims = jwt.decode(
        made, KEYS[alg].public_key(), [alg], audience="https://idp.example", options=options
    )
    assert claims == {
        "iss": "gateway", "sub": "gateway", "aud": "https://idp.example",
        "iat": 1_800_000_000, "exp": 1_800_000_060, "jti": "j1",
    }  # fmt: skip
    header = jwt.get_unverified_header(made)
    assert header == {"alg": alg, "kid": "k1", "typ": "client-authentication+jwt"}
    assert "private" not in repr(key).lower()


def test_other_keys_and_files_are_refused() -> None:
    small = rsa.generate_private_key(65537, 1024)  # noqa: S505 - refusing it is the point
    other = ec.generate_private_key(ec.SECP384R1())
    sealed = KEYS["ES256"].private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")
    )
    for data in (pem(small), pem(other), sealed, b"", b"no key", b"\xff"):
        with pytest.raises(ValueError, match="key"):
            read_client_key(data)
