"""Whether a certificate is vouched for by given authorities: path validation (RFC 5280 section 6)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    Policy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from agentgw.core.certificate import ClientCertificate
from agentgw.errors import InvalidToken

_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
_FOR_CLIENTS = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)


class TrustAnchors:
    """A set of authorities; an intermediate one among them is trusted like a root.

    Raises ValueError for an empty set.
    """

    def __init__(self, certificates: Iterable[x509.Certificate]) -> None:
        self._store = Store(list(certificates))

    def verify(self, certificate: ClientCertificate, now: float) -> x509.Certificate:
        """The client's certificate, vouched for at Unix time `now`. Raises InvalidToken."""
        leaf = read_certificate(certificate.der)
        between = [read_certificate(der) for der in certificate.intermediates]
        verifier = (
            PolicyBuilder()
            .store(self._store)
            .time(datetime.fromtimestamp(now, UTC))
            .extension_policies(ca_policy=_AUTHORITY, ee_policy=_CLIENT)
            .build_client_verifier()
        )
        try:
            verifier.verify(leaf, between)
        except VerificationError:
            check_validity(leaf, now)
            raise InvalidToken(
                "no configured authority vouches for the client's certificate, or not for this use"
            ) from None
        return leaf


def read_certificate(der: bytes) -> x509.Certificate:
    """The certificate of these bytes, its names and extensions readable. Raises InvalidToken."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        # Parsed only when looked at; what cannot be read must not fail later.
        _ = certificate.subject, certificate.extensions, certificate.public_key()
    except _UNREADABLE:
        raise InvalidToken("the client's certificate cannot be read") from None
    return certificate


def check_validity(certificate: x509.Certificate, now: float) -> None:
    """Raise InvalidToken where `now` (Unix seconds) lies outside the certificate's validity."""
    moment = datetime.fromtimestamp(now, UTC)
    if moment < certificate.not_valid_before_utc:
        raise InvalidToken("the client's certificate is not valid yet")
    if moment > certificate.not_valid_after_utc:
        raise InvalidToken("the client's certificate has expired")


def _is_authority(
    policy: Policy, certificate: x509.Certificate, extension: x509.BasicConstraints
) -> None:
    if not extension.ca:
        raise ValueError("no authority")


def _may_sign_certificates(
    policy: Policy, certificate: x509.Certificate, extension: x509.KeyUsage | None
) -> None:
    if extension is not None and not extension.key_cert_sign:
        raise ValueError("not for signing certificates")


def _may_sign(
    policy: Policy, certificate: x509.Certificate, extension: x509.KeyUsage | None
) -> None:
    if extension is not None and not extension.digital_signature:
        raise ValueError("not for signatures")


def _may_be_a_client(
    policy: Policy, certificate: x509.Certificate, extension: x509.ExtendedKeyUsage | None
) -> None:
    if extension is not None and not any(use in extension for use in _FOR_CLIENTS):
        raise ValueError("not for clients")


# The defaults are those of the Web's authorities, which company ones seldom meet: they demand a SAN
# and key identifiers. Path length, name constraints, validity and signatures are judged in any case.
_AUTHORITY = (
    ExtensionPolicy.permit_all()
    .require_present(x509.BasicConstraints, Criticality.AGNOSTIC, _is_authority)
    .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _may_sign_certificates)
)
_CLIENT = (
    ExtensionPolicy.permit_all()
    .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _may_sign)
    .may_be_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, _may_be_a_client)
)
