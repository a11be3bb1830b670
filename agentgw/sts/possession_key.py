"""The key by which we prove to tool servers that a token of ours is used by us (RFC 9449)."""

from __future__ import annotations

import hashlib
import hmac

from cryptography.hazmat.primitives.asymmetric import ec

from agentgw.sts.algorithms import ES256, TokenKey, kid_of, signer

_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Of the group of P-256 (SEC 2, section 2.4.2)."""


def possession_key(secret: bytes, created: int = 0) -> TokenKey:
    """The P-256 key that 32 secret bytes stand for; its `kid` is the `jkt` of tokens bound to it."""
    private = derived_key(secret, b"agentgw dpop key")
    public = private.public_key()
    return TokenKey(kid_of(public), ES256, public, created, sign=signer(private))


def derived_key(secret: bytes, purpose: bytes) -> ec.EllipticCurvePrivateKey:
    """The P-256 key that 32 secret bytes stand for, for one purpose.

    The scalar is the remainder of 512 bits, so none is likelier than another (FIPS 186-5 section A.2.1).
    """
    wide = hmac.digest(secret, purpose, hashlib.sha512)
    scalar = int.from_bytes(wide, "big") % (_ORDER - 1) + 1
    return ec.derive_private_key(scalar, ec.SECP256R1())
