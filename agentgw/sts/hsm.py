"""Token keys that lie in a hardware security module, reached by PKCS#11 (extra `hsm`).

The private key never leaves the device: it signs for us. That takes a device's time, so it happens in
a thread. It is one thread only: python-pkcs11 initialises a module for callers that come one by one
(`C_Initialize` with NULL, PKCS#11 version 2.40 section 5.4), and SoftHSM, for one, crashes where they do not.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from agentgw.errors import AgentgwError, Unavailable
from agentgw.sts.algorithms import ES256, RS256, PublicKey, Sign, TokenKey, check_fits, kid_of

ALGORITHMS = (ES256, RS256)

_ONE_BY_ONE = threading.Lock()
"""Held by whoever calls a module."""

_P256 = bytes.fromhex("06082a8648ce3d030107")
"""The DER of the curve's object identifier (SEC 2, RFC 5480 section 2.1.1.1)."""


class HsmError(AgentgwError):
    """The device cannot be used as it was configured; the message says why."""


class Hsm:
    """The keys `labels` names, by algorithm, in the token labelled `token` of a PKCS#11 `module`.

    Of each algorithm the first key signs, the others are only published. Load it after a fork, never
    before. Raises HsmError where module, token, PIN or a key is not as told.
    """

    def __init__(
        self, module: Path, token: str, pin: str, labels: Mapping[str, tuple[str, ...]]
    ) -> None:
        self._pkcs11 = _library()
        self._token = token
        self._pin = pin
        self._pin_refused = False
        self._session: Any = None
        self._handles: dict[str, Any] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="hsm")
        try:
            with _ONE_BY_ONE:
                self._module = self._load(module)
                self._log_in()
            self.keys = {
                alg: tuple(self._key(alg, label) for label in named)
                for alg, named in labels.items()
            }
        except self._pkcs11.PKCS11Error as error:
            self.close()
            raise HsmError(self._why(error)) from None
        except HsmError:
            self.close()
            raise

    def close(self) -> None:
        """Log out; whoever still waits for a signature gets none."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        with _ONE_BY_ONE:
            self._log_out()

    def _load(self, module: Path) -> Any:
        try:
            return self._pkcs11.lib(str(module))
        except (self._pkcs11.PKCS11Error, RuntimeError):
            raise HsmError(f"the PKCS#11 module {module} cannot be loaded") from None

    def _log_in(self) -> None:
        self._log_out()
        token = self._module.get_token(token_label=self._token)
        try:
            self._session = token.open(user_pin=self._pin)
        except self._pkcs11.exceptions.UserAlreadyLoggedIn:
            self._session = token.open()

    def _log_out(self) -> None:
        session, self._session = self._session, None
        self._handles = {}
        # It may be gone already, with the device.
        with suppress(Exception):
            if session is not None:
                session.close()

    def _key(self, alg: str, label: str) -> TokenKey:
        kinds = self._pkcs11.ObjectClass
        with _ONE_BY_ONE:
            found = self._find(kinds.PUBLIC_KEY, label)
            counts = {len(found), len(self._find(kinds.PRIVATE_KEY, label))}
            if max(counts) > 1:
                raise HsmError(f"the HSM has several keys labelled {label}: give each its own")
            if counts != {1}:
                raise HsmError(f"the HSM has no key pair labelled {label}")
            try:
                public = check_fits(alg, _read_public(found[0], self._pkcs11.Attribute))
            except (ValueError, TypeError, KeyError):
                raise HsmError(f"the key labelled {label} in the HSM is none for {alg}") from None
        sign: Sign = partial(self._sign, alg, label)
        if not _verifies(public, sign(b"probe"), b"probe"):
            raise HsmError(f"the keys labelled {label} in the HSM are no pair")
        return TokenKey(kid_of(public), alg, public, 0, sign=sign, pool=self._pool)

    def _find(self, kind: Any, label: str) -> list[Any]:
        attribute = self._pkcs11.Attribute
        # The whole list: a search left half-way would block the session.
        return list(self._session.get_objects({attribute.CLASS: kind, attribute.LABEL: label}))

    def _sign(self, alg: str, label: str, data: bytes) -> bytes:
        """The raw signature of RFC 7515. Raises Unavailable where the device does not give one."""
        with _ONE_BY_ONE:
            try:
                return self._sign_once(alg, label, data)
            except self._pkcs11.PKCS11Error:
                # The login may be gone for a device that is back already: one more time, afresh.
                self._log_in_again()
            try:
                return self._sign_once(alg, label, data)
            except self._pkcs11.PKCS11Error as error:
                raise Unavailable(f"the HSM does not sign ({type(error).__name__})") from None

    def _sign_once(self, alg: str, label: str, data: bytes) -> bytes:
        if label not in self._handles:
            found = self._session and self._find(self._pkcs11.ObjectClass.PRIVATE_KEY, label)
            if not found:
                # Not there, or not shown to somebody who is not logged in.
                raise self._pkcs11.exceptions.UserNotLoggedIn
            self._handles[label] = found[0]
        private, mechanism = self._handles[label], self._pkcs11.Mechanism
        if alg == RS256:
            return bytes(private.sign(data, mechanism=mechanism.SHA256_RSA_PKCS))
        # Hashed here, as some devices cannot; what they give back is r || s, just as JWS wants it.
        return bytes(private.sign(hashlib.sha256(data).digest(), mechanism=mechanism.ECDSA))

    def _log_in_again(self) -> None:
        errors = self._pkcs11.exceptions
        if self._pin_refused:
            raise Unavailable("the HSM does not take the PIN any more: restart with the right one")
        try:
            self._log_in()
        except (errors.PinIncorrect, errors.PinLocked, errors.PinExpired):
            # Asking again and again would lock the token.
            self._pin_refused = True
            raise Unavailable("the HSM does not take the PIN any more") from None
        except self._pkcs11.PKCS11Error as error:
            raise Unavailable(f"the HSM does not answer ({type(error).__name__})") from None

    def _why(self, error: Exception) -> str:
        errors = self._pkcs11.exceptions
        if isinstance(error, (errors.NoSuchToken, errors.MultipleTokensReturned)):
            return f"the HSM has not just one token labelled {self._token}"
        if isinstance(error, (errors.PinIncorrect, errors.PinLocked, errors.PinLenRange)):
            return f"the HSM does not take the PIN ({type(error).__name__})"
        return f"the HSM cannot be used ({type(error).__name__})"


def _library() -> ModuleType:
    try:
        import pkcs11
    except ImportError:
        raise HsmError("keys in an HSM need an extra: pip install 'agentgw[hsm]'") from None
    library: ModuleType = pkcs11
    return library


def _read_public(key: Any, attribute: Any) -> PublicKey:
    """A public key object by its attributes (PKCS#11 sections 2.1.2 and 2.3.3)."""
    if key.key_type.name == "RSA":
        exponent = int.from_bytes(key[attribute.PUBLIC_EXPONENT], "big")
        modulus = int.from_bytes(key[attribute.MODULUS], "big")
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    if key.key_type.name != "EC" or bytes(key[attribute.EC_PARAMS]) != _P256:
        raise ValueError("neither RSA nor P-256")
    point = bytes(key[attribute.EC_POINT])
    # An OCTET STRING around the point; some devices leave it out.
    point = point[2:] if len(point) == 67 else point
    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)


def _verifies(public: PublicKey, signature: bytes, data: bytes) -> bool:
    try:
        if isinstance(public, rsa.RSAPublicKey):
            public.verify(signature, data, PKCS1v15(), SHA256())
        elif isinstance(public, ec.EllipticCurvePublicKey) and len(signature) == 64:
            r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
            public.verify(encode_dss_signature(r, s), data, ec.ECDSA(SHA256()))
        else:
            return False
    except InvalidSignature:
        return False
    return True
