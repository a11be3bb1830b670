from __future__ import annotations

import ipaddress
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from agentgw.errors import InvalidToken
from agentgw.sts.client_auth.anchors import TrustAnchors
from agentgw.sts.client_auth.certificate import (
    CertificateCheck,
    CertificateSubject,
    SubjectKind,
    parse_dn,
    read_registered,
)
from tests.certificates import dns, issue, uri

ROOT = issue("root", ca=True)
AGENT = issue(
    "coder",
    ROOT,
    dns("coder.example"),
    dns("other.example"),
    uri("urn:agent:coder"),
    x509.IPAddress(ipaddress.ip_address("::1")),
    x509.RFC822Name("coder@example.com"),
)
CHECK = CertificateCheck(lambda: TrustAnchors([ROOT.certificate]), time.time)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("subject_dn", "CN=coder"),
        ("san_dns", "coder.example"),
        ("san_dns", "OTHER.example"),
        ("san_uri", "urn:agent:coder"),
        ("san_ip", "0:0:0:0:0:0:0:1"),
        ("san_email", "coder@example.com"),
    ],
)
def test_each_kind_of_subject_is_found(kind: SubjectKind, value: str) -> None:
    CHECK.by_subject(AGENT.shown, CertificateSubject(kind, value))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("subject_dn", "CN=Coder"),
        ("subject_dn", "CN=coder,O=Example"),
        ("subject_dn", "O=coder"),
        ("san_dns", "*.example"),
        ("san_dns", "coder.example."),
        ("san_dns", "urn:agent:coder"),
        ("san_uri", "urn:agent:"),
        ("san_uri", "URN:agent:coder"),
        ("san_ip", "::2"),
        ("san_email", "Coder@example.com"),
    ],
)
def test_another_subject_is_refused(kind: SubjectKind, value: str) -> None:
    with pytest.raises(InvalidToken, match="not the one registered"):
        CHECK.by_subject(AGENT.shown, CertificateSubject(kind, value))


def test_a_name_in_the_subject_is_no_alternative_name() -> None:
    with pytest.raises(InvalidToken):
        CHECK.by_subject(issue("a.example", ROOT).shown, CertificateSubject("san_dns", "a.example"))


def test_a_distinguished_name_is_read_as_rfc_4514_writes_it() -> None:
    name = parse_dn("CN=coder\\, the second,OU=agents,O=Example")
    assert [part.value for part in name] == ["Example", "agents", "coder, the second"]
    assert name.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value == "Example"
    for wrong in ("", "coder", "CN"):
        with pytest.raises(ValueError):
            parse_dn(wrong)


def test_a_registered_certificate_or_key_is_enough_whoever_issued_it() -> None:
    own, other = issue("coder"), issue("coder")
    registered, certificates = read_registered(own.pem.encode())
    assert certificates == (own.certificate,)
    CHECK.by_registration(own.shown, registered)
    key = own.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    by_key, none = read_registered(key)
    assert none == ()
    CHECK.by_registration(own.shown, by_key)
    for wanted in (registered, by_key):
        with pytest.raises(InvalidToken, match="none of those registered"):
            CHECK.by_registration(other.shown, wanted)


def test_an_expired_certificate_is_refused_though_it_is_registered() -> None:
    own = issue("coder", ended=True)
    with pytest.raises(InvalidToken, match="has expired"):
        CHECK.by_registration(own.shown, read_registered(own.pem.encode())[0])


def test_a_certificate_a_registered_one_issued_is_not_registered() -> None:
    own = issue("coder", ca=True)
    with pytest.raises(InvalidToken, match="none of those registered"):
        CHECK.by_registration(issue("coder", own).shown, read_registered(own.pem.encode())[0])


def test_a_file_without_certificate_or_key_is_refused() -> None:
    broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    for pem in ("", "hello", broken, broken.replace("CERTIFICATE", "PUBLIC KEY")):
        with pytest.raises(ValueError):
            read_registered(pem.encode())


def test_without_authorities_no_subject_counts() -> None:
    with pytest.raises(InvalidToken, match="no authority"):
        CertificateCheck(lambda: None, time.time).by_subject(
            AGENT.shown, CertificateSubject("subject_dn", "CN=coder")
        )
