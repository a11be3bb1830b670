from __future__ import annotations

import base64
from ipaddress import ip_network
from typing import Any

import pytest

from agentgw.core.certificate import ClientCertificate
from agentgw.http.client_certificate import certificate_of, keep
from agentgw.http.request import RefusedRequest

TERMINATOR = (ip_network("10.0.0.0/8"),)
DER, MORE = b"leaf", b"between"
HEADER = b":" + base64.b64encode(DER) + b":"
CHAIN = b":" + base64.b64encode(MORE) + b":"


def scope(
    peer: str | None, *headers: tuple[bytes, bytes], own: bytes | None = None
) -> dict[str, Any]:
    made: dict[str, Any] = {"headers": list(headers)}
    made["client"] = None if peer is None else (peer, 4711)
    if own is not None:
        keep(made, ClientCertificate(own))
    return made


def test_the_thumbprint_is_that_of_rfc_8705() -> None:
    # SHA-256 of nothing, in base64url.
    assert ClientCertificate(b"").thumbprint == "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"


def test_a_terminator_tells_the_certificate_and_its_chain() -> None:
    request = scope("10.1.2.3", (b"client-cert", HEADER), (b"client-cert-chain", CHAIN))
    assert certificate_of(request, TERMINATOR, True) == ClientCertificate(DER, (MORE,))
    twice = scope(
        "10.1.2.3", (b"client-cert", HEADER), (b"client-cert-chain", CHAIN + b", " + CHAIN)
    )
    assert certificate_of(twice, TERMINATOR, True) == ClientCertificate(DER, (MORE, MORE))


def test_nobody_else_is_believed() -> None:
    told = (b"client-cert", HEADER)
    assert certificate_of(scope("192.0.2.1", told), TERMINATOR, True) is None
    assert certificate_of(scope(None, told), TERMINATOR, True) is None
    assert certificate_of(scope("10.1.2.3", told), TERMINATOR, False) is None
    assert certificate_of(scope("10.1.2.3", told), (), True) is None


def test_whoever_was_let_in_by_our_unix_socket_is_a_terminator() -> None:
    told = (b"client-cert", HEADER)
    assert certificate_of(scope(None, told), (), True, unix=True) == ClientCertificate(DER)
    assert certificate_of(scope(None), (), True, unix=True) is None
    assert certificate_of(scope(None, told), (), False, unix=True) is None
    assert certificate_of(scope("192.0.2.1", told), (), True, unix=True) is None


def test_a_certificate_on_the_connection_counts_and_no_header_replaces_it() -> None:
    request = scope("192.0.2.1", (b"client-cert", HEADER), own=b"own")
    for header in (True, False):
        assert certificate_of(request, TERMINATOR, header) == ClientCertificate(b"own")


def test_the_terminators_own_certificate_is_not_its_clients() -> None:
    assert certificate_of(scope("10.1.2.3", own=b"own"), TERMINATOR, True) is None
    assert certificate_of(scope("10.1.2.3", own=b"own"), TERMINATOR, False) is None
    told = scope("10.1.2.3", (b"client-cert", HEADER), own=b"own")
    assert certificate_of(told, TERMINATOR, True) == ClientCertificate(DER)


@pytest.mark.parametrize(
    "headers",
    [
        ((b"client-cert", HEADER), (b"client-cert", HEADER)),
        ((b"client-cert", HEADER + b"," + HEADER),),
        ((b"client-cert", base64.b64encode(DER)),),
        ((b"client-cert", b"::"),),
        ((b"client-cert", b""),),
        ((b"client-cert", b":%%%:"),),
        ((b"client-cert", b":AAA:"),),
        ((b"client-cert", HEADER + b";a=1"),),
        ((b"client-cert", HEADER), (b"client-cert-chain", b"x")),
        ((b"client-cert", HEADER), (b"client-cert-chain", b",".join([CHAIN] * 9))),
    ],
)
def test_an_unreadable_header_of_a_terminator_is_refused(
    headers: tuple[tuple[bytes, bytes], ...],
) -> None:
    with pytest.raises(RefusedRequest) as caught:
        certificate_of(scope("10.1.2.3", *headers), TERMINATOR, True)
    assert caught.value.status == 400
