"""The certificate of whoever sent a request: from our own TLS connection, or as a terminator tells it.

A terminator passes it on in the `Client-Cert` header (RFC 9440). That header is believed from trusted
proxies only, and only where the operator switched it on: from anybody else it is just bytes.
"""

from __future__ import annotations

import base64
import binascii
import re
import ssl
from typing import Any

from agentgw.core.certificate import ClientCertificate
from agentgw.http.request import Networks, RefusedRequest, Scope, comes_from

CHAIN_LIMIT = 8

_KEY = "agentgw.client_certificate"
_BYTE_SEQUENCE = re.compile(rb":([A-Za-z0-9+/]*={0,2}):")


def certificate_of(
    scope: Scope, proxies: Networks = (), header: bool = False, unix: bool = False
) -> ClientCertificate | None:
    """The client's certificate, None where it showed none.

    `proxies` are the TLS terminators and `header` says that they send `Client-Cert`; `unix` says that
    we listen on a unix socket, where whoever was let in is one. The certificate a terminator itself may
    show on its connection to us is never its client's. Raises RefusedRequest for a header of a
    terminator that cannot be read.
    """
    own: ClientCertificate | None = scope.get(_KEY)
    if own is None and not header:
        return None
    # A TCP peer that is gone already has no address either, hence the word of the configuration.
    terminated = unix and scope.get("client") is None
    if not terminated and not comes_from(scope, proxies):
        return own
    return _from_header(scope["headers"]) if header else None


def certificate_on(connection: Any) -> ClientCertificate | None:
    """The certificate the peer showed in the TLS handshake; `connection` is an ssl.SSLObject or None.

    The intermediates it sent are known from Python 3.13 on; before, those it needs must be among the
    configured authorities.
    """
    der = None if connection is None else connection.getpeercert(binary_form=True)
    if not der:
        return None
    sent = getattr(connection, "get_unverified_chain", None)
    chain = () if sent is None else tuple(bytes(item) for item in sent()[1 : CHAIN_LIMIT + 1])
    return ClientCertificate(der, chain)


def keep(scope: Any, certificate: ClientCertificate) -> None:
    """Write the connection's certificate into the scope of a request."""
    scope[_KEY] = certificate


def request_certificates(context: ssl.SSLContext, anchors: str) -> None:
    """Make a server's TLS context ask clients for a certificate, and take those `anchors` (PEM) lead to.

    A client without one is served all the same. The handshake proves that the client holds the key;
    whose certificate counts for which agent is decided at each use, so anchors that the context took
    on earlier do no harm. No session is resumed: a resumed one would not show the client's chain.
    """
    context.load_verify_locations(cadata=anchors)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_OPTIONAL


def _from_header(headers: list[tuple[bytes, bytes]]) -> ClientCertificate | None:
    found = [value for name, value in headers if name == b"client-cert"]
    if not found:
        return None
    if len(found) > 1:
        raise RefusedRequest(400, "the Client-Cert header stands twice")
    chain = b",".join(value for name, value in headers if name == b"client-cert-chain")
    items = chain.split(b",") if chain.strip() else []
    if len(items) > CHAIN_LIMIT:
        raise RefusedRequest(400, "the Client-Cert-Chain header is too long")
    return ClientCertificate(_bytes(found[0]), tuple(_bytes(item) for item in items))


def _bytes(item: bytes) -> bytes:
    """A byte sequence of RFC 9651 section 3.3.5, without parameters."""
    match = _BYTE_SEQUENCE.fullmatch(item.strip(b" \t"))
    try:
        value = base64.b64decode(match[1], validate=True) if match else b""
    except binascii.Error:
        value = b""
    if not value:
        raise RefusedRequest(400, "the Client-Cert headers are no byte sequences (RFC 9440)")
    return value
