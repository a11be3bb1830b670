"""Keys that may verify a token, and what each of them may be used for (RFC 7517, RFC 7518)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.exceptions import PyJWTError

PublicKey = EllipticCurvePublicKey | Ed25519PublicKey | RSAPublicKey

_CURVES = {"secp256r1": ("ES256", 64), "secp384r1": ("ES384", 96), "secp521r1": ("ES512", 132)}
_EDWARDS = frozenset({"EdDSA", "Ed25519"})
_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_READERS: Mapping[str, Callable[[dict[str, Any]], object]] = {
    "EC": ECAlgorithm.from_jwk,
    "OKP": OKPAlgorithm.from_jwk,
    "RSA": RSAAlgorithm.from_jwk,
}
_ROCA_PRIMES = (
    3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101,
    103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
)  # fmt: skip


class UnusableKey(ValueError):
    """A key that may not verify tokens; the message says why."""


@dataclass(frozen=True, slots=True)
class VerifyKey:
    """A public key bound to the `algorithms` it may verify and the exact raw `signature_length` in bytes."""

    kid: str | None
    algorithms: frozenset[str]
    signature_length: int
    key: PublicKey


def bind_key(key: object, kid: str | None = None) -> VerifyKey:
    """Bind a public key to the algorithms of its type; RSA needs 2048 to 8192 bits. Raises UnusableKey."""
    if isinstance(key, EllipticCurvePublicKey):
        if key.curve.name not in _CURVES:
            raise UnusableKey(f"the curve {key.curve.name} is not accepted")
        alg, length = _CURVES[key.curve.name]
        return VerifyKey(kid, frozenset({alg}), length, key)
    if isinstance(key, Ed25519PublicKey):
        return VerifyKey(kid, _EDWARDS, 64, key)
    if isinstance(key, RSAPublicKey):
        _check_rsa(key)
        return VerifyKey(kid, _RSA, (key.key_size + 7) // 8, key)
    raise UnusableKey("the key is not a public key of a kind we accept (EC, Ed25519, RSA)")


def read_jwk(jwk: Mapping[str, Any]) -> VerifyKey:
    """Read one member of a JWK Set, honouring `alg`, `use`, `key_ops`, `kty` and `crv`.

    Symmetric and private keys are refused: what everybody may fetch proves nothing. Raises UnusableKey.
    """
    kty, kid, alg = jwk.get("kty"), jwk.get("kid"), jwk.get("alg")
    if not isinstance(kty, str) or kty not in _READERS:
        raise UnusableKey("kty is not EC, OKP or RSA")
    if "d" in jwk:
        raise UnusableKey("the key is a published private key")
    if kid is not None and not isinstance(kid, str):
        raise UnusableKey("kid is not a string")
    if jwk.get("use", "sig") != "sig":
        raise UnusableKey("use is not sig")
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise UnusableKey("key_ops does not name verify")
    try:
        public = _READERS[kty](dict(jwk))
    except (PyJWTError, ValueError, TypeError, LookupError, OverflowError, UnsupportedAlgorithm):
        raise UnusableKey("the key's numbers are not a valid key") from None
    bound = bind_key(public, kid)
    if alg is None:
        return bound
    if not isinstance(alg, str) or alg not in bound.algorithms:
        raise UnusableKey("alg does not fit kty and crv")
    # EdDSA and Ed25519 are two names of one algorithm (RFC 9864), so either name binds both.
    only = _EDWARDS if alg in _EDWARDS else frozenset({alg})
    return VerifyKey(kid, only, bound.signature_length, bound.key)


def _check_rsa(key: RSAPublicKey) -> None:
    numbers = key.public_numbers()
    if not 2048 <= key.key_size <= 8192:
        raise UnusableKey("the RSA modulus does not have 2048 to 8192 bits")
    if numbers.e < 3 or numbers.e % 2 == 0 or numbers.e.bit_length() > 33:
        raise UnusableKey("the RSA exponent is not an odd number from 3 to 33 bits")
    if all(_in_roca_group(numbers.n, prime) for prime in _ROCA_PRIMES):
        raise UnusableKey("the RSA key shows the ROCA weakness (CVE-2017-15361)")


def _in_roca_group(modulus: int, prime: int) -> bool:
    """True where `modulus` is a power of 65537 modulo `prime`, as moduli of the weak generator always are."""
    remainder, power = modulus % prime, 1
    for _ in range(prime):
        if power == remainder:
            return True
        power = power * 65537 % prime
    return False
