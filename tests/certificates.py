"""Certificates for tests: authorities, and what they (or nobody) issue."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from agentgw.core.certificate import ClientCertificate

HOUR = datetime.timedelta(hours=1)


@dataclass(frozen=True)
class Issued:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode("ascii")

    @property
    def shown(self) -> ClientCertificate:
        """It, as a gateway sees it of a client that sends no intermediates."""
        return ClientCertificate(self.der)

    def write(self, path: Path) -> Path:
        """Key and certificate in one PEM file."""
        key = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path.write_bytes(key + self.pem.encode())
        return path


def issue(
    name: str,
    issuer: Issued | None = None,
    *names: x509.GeneralName,
    ca: bool = False,
    ended: bool = False,
    extensions: tuple[x509.ExtensionType, ...] = (),
    now: datetime.datetime | None = None,
) -> Issued:
    """A certificate for CN=`name` with these alternative names; self-signed without `issuer`.

    It is valid for an hour around `now`, or `ended` a moment before.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    own = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])
    now = now or datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(
        own if issuer is None else issuer.certificate.subject,
        own,
        key.public_key(),
        x509.random_serial_number(),
        now - 2 * HOUR,
        now - HOUR if ended else now + HOUR,
    )
    builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True)
    builder = builder.add_extension(
        x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
    )
    signer = key if issuer is None else issuer.key
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
    )
    if ca:
        builder = builder.add_extension(
            x509.KeyUsage(False, False, False, False, False, True, True, False, False),
            critical=True,
        )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return Issued(builder.sign(signer, hashes.SHA256()), key)


def dns(name: str) -> x509.DNSName:
    return x509.DNSName(name)


def uri(name: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(name)


LOOPBACK = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))


def client_context(server: Issued, shown: Path | None = None) -> ssl.SSLContext:
    """A TLS client that trusts the authority `server`, and shows the certificate of the file."""
    context = ssl.create_default_context(cadata=server.pem)
    if shown is not None:
        context.load_cert_chain(shown)
    return context
