"""The certificate a client showed on its connection, as far as rules care: its bytes and their digest."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from agentgw.core.canonical import b64url


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """A client's certificate in DER, with those it sent to lead up to a root, nearest first.

    Whoever made this saw that the client holds the private key. Nothing is said about who vouches for
    the certificate.
    """

    der: bytes
    intermediates: tuple[bytes, ...] = ()

    @property
    def thumbprint(self) -> str:
        """SHA-256 of the DER bytes in base64url: the `x5t#S256` of RFC 8705 section 3.1."""
        return b64url(hashlib.sha256(self.der).digest())
