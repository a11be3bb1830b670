"""A certificate authority for one test."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


class Authority:
    """Issues certificates for 127.0.0.1 to `cert` and `key` in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.cert = folder / "cert.pem"
        self.key = folder / "key.pem"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority of a test")])
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        own = self._builder(self._name, self._key.public_key(), 100)
        own = own.add_extension(constraints, critical=True).add_extension(
            x509.KeyUsage(False, False, False, False, False, True, True, False, False),
            critical=True,
        )
        identity = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        self._certificate = own.add_extension(identity, critical=False).sign(
            self._key, hashes.SHA256()
        )

    def issue(self, serial: int) -> None:
        """Write a fresh key and its certificate with that serial number."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        parent = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        certificate = (
            self._builder(subject, key.public_key(), serial)
            .add_extension(names, critical=False)
            .add_extension(parent, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self.key.write_bytes(pem)
        self.cert.write_bytes(certificate.public_bytes(Encoding.PEM))

    def context(self) -> ssl.SSLContext:
        """What trusts this authority and nobody else."""
        pem = self._certificate.public_bytes(Encoding.PEM).decode()
        return ssl.create_default_context(cadata=pem)

    def serial_at(self, url: str) -> int:
        """The serial number of the certificate that a new connection to `url` is shown."""
        parts = urlsplit(url)
        pem = ssl.get_server_certificate((str(parts.hostname), parts.port or 443))
        return x509.load_pem_x509_certificate(pem.encode()).serial_number

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, serial: int
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return x509.CertificateBuilder(
            self._name, subject, key, serial,
            now - datetime.timedelta(hours=1), now + datetime.timedelta(hours=1),
        )  # fmt: skip
