"""Clients that prove themselves with a TLS certificate (RFC 8705 section 2).

That the client holds the certificate's key was seen in the handshake; here it is decided whose it is.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from agentgw.core.certificate import ClientCertificate
from agentgw.errors import InvalidToken
from agentgw.sts.client_auth.anchors import TrustAnchors, check_validity, read_certificate

TLS_CLIENT_AUTH = "tls_client_auth"
SELF_SIGNED = "self_signed_tls_client_auth"

SubjectKind = Literal["subject_dn", "san_dns", "san_uri", "san_ip", "san_email"]


@dataclass(frozen=True, slots=True)
class CertificateSubject:
    """Which certificate of a configured authority is the agent's (RFC 8705 section 2.1.2).

    `subject_dn` is a distinguished name as RFC 4514 writes it; the others name one entry of the
    subject alternative names.
    """

    kind: SubjectKind
    value: str

    def check(self) -> None:
        """Raise ValueError where the value could match nothing."""
        if self.kind == "subject_dn":
            parse_dn(self.value)
        _entry_of(self.kind, self.value)

    def matches(self, certificate: x509.Certificate) -> bool:
        """Whether the certificate has this very subject or entry; no wildcard means anything."""
        if self.kind == "subject_dn":
            return certificate.subject == parse_dn(self.value)
        try:
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except x509.ExtensionNotFound:
            return False
        return _entry_of(self.kind, self.value) in set(_entries(self.kind, names.value))


@dataclass(frozen=True, slots=True)
class RegisteredKeys:
    """Certificates and bare public keys an operator registered for one agent.

    `certificates` are SHA-256 thumbprints in base64url, `keys` SHA-256 digests of DER public keys.
    """

    certificates: frozenset[str] = frozenset()
    keys: frozenset[bytes] = frozenset()


def read_registered(pem: bytes) -> tuple[RegisteredKeys, tuple[x509.Certificate, ...]]:
    """The registered keys in a PEM file of certificates and public keys, and its certificates.

    Raises ValueError for a file that holds neither, or something unreadable.
    """
    found = tuple(x509.load_pem_x509_certificates(pem)) if b"BEGIN CERTIFICATE" in pem else ()
    blocks = [b"-----BEGIN PUBLIC KEY" + rest for rest in pem.split(b"-----BEGIN PUBLIC KEY")[1:]]
    keys = frozenset(_key_digest(load_pem_public_key(block)) for block in blocks)
    thumbprints = (ClientCertificate(item.public_bytes(Encoding.DER)).thumbprint for item in found)
    if not found and not keys:
        raise ValueError("it holds no certificate and no public key")
    return RegisteredKeys(frozenset(thumbprints), keys), found


def parse_dn(text: str) -> x509.Name:
    """A distinguished name written as in RFC 4514. Raises ValueError."""
    name = x509.Name.from_rfc4514_string(text)
    if not list(name):
        raise ValueError("the distinguished name is empty")
    return name


class CertificateCheck:
    """Judges certificates by the authorities configured now; `clock` gives Unix seconds."""

    def __init__(
        self, authorities: Callable[[], TrustAnchors | None], clock: Callable[[], float]
    ) -> None:
        self._authorities = authorities
        self._clock = clock

    def by_subject(self, certificate: ClientCertificate, subject: CertificateSubject) -> None:
        """A certificate of a configured authority, of this subject. Raises InvalidToken."""
        authorities = self._authorities()
        if authorities is None:
            raise InvalidToken("no authority for client certificates is configured")
        if not subject.matches(authorities.verify(certificate, self._clock())):
            raise InvalidToken(f"the certificate's {subject.kind} is not the one registered")

    def by_registration(self, certificate: ClientCertificate, registered: RegisteredKeys) -> None:
        """One of the registered certificates, or one of a registered key. Raises InvalidToken."""
        leaf = read_certificate(certificate.der)
        same = certificate.thumbprint in registered.certificates
        if not same and _key_digest(leaf.public_key()) not in registered.keys:
            raise InvalidToken("the certificate is none of those registered for this client")
        check_validity(leaf, self._clock())


def _key_digest(key: object) -> bytes:
    encode = getattr(key, "public_bytes", None)
    if encode is None:
        raise ValueError("no public key")
    return hashlib.sha256(encode(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def _entry_of(kind: SubjectKind, value: str) -> str:
    """A configured entry in the one form that entries are compared in."""
    if kind == "san_ip":
        return str(ipaddress.ip_address(value))
    return value.lower() if kind == "san_dns" else value


def _entries(kind: SubjectKind, names: x509.SubjectAlternativeName) -> list[str]:
    match kind:
        case "san_dns":
            return [name.lower() for name in names.get_values_for_type(x509.DNSName)]
        case "san_uri":
            return names.get_values_for_type(x509.UniformResourceIdentifier)
        case "san_email":
            return names.get_values_for_type(x509.RFC822Name)
        case "san_ip":
            return [str(address) for address in names.get_values_for_type(x509.IPAddress)]
        case _:
            return []
