from __future__ import annotations

import time

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from agentgw.core.certificate import ClientCertificate
from agentgw.errors import InvalidToken
from agentgw.sts.client_auth.anchors import TrustAnchors, read_certificate
from tests.certificates import Issued, dns, issue

NOW = time.time()
ROOT = issue("root", ca=True)
ANCHORS = TrustAnchors([ROOT.certificate])


def refusal(shown: ClientCertificate, anchors: TrustAnchors = ANCHORS, now: float = NOW) -> str:
    with pytest.raises(InvalidToken) as caught:
        anchors.verify(shown, now)
    return caught.value.reason


def test_a_certificate_of_the_authority_is_vouched_for_with_or_without_alternative_names() -> None:
    for leaf in (issue("a", ROOT), issue("a", ROOT, dns("a.example"))):
        assert ANCHORS.verify(leaf.shown, NOW) == leaf.certificate


def test_intermediates_are_followed_and_needed() -> None:
    between = issue("between", ROOT, ca=True)
    leaf = issue("a", between)
    assert ANCHORS.verify(ClientCertificate(leaf.der, (between.der,)), NOW) == leaf.certificate
    assert "no configured authority" in refusal(leaf.shown)
    assert TrustAnchors([between.certificate]).verify(leaf.shown, NOW) == leaf.certificate


def test_a_client_cannot_issue_certificates() -> None:
    client = issue("a", ROOT)
    forged = issue("b", client)
    assert "no configured authority" in refusal(ClientCertificate(forged.der, (client.der,)))


def test_an_authority_of_the_same_name_is_another_one() -> None:
    other = issue("root", ca=True)
    assert "no configured authority" in refusal(issue("a", other).shown)
    assert "no configured authority" in refusal(
        ClientCertificate(issue("a", other).der, (other.der,))
    )


def test_time_is_judged() -> None:
    leaf = issue("a", ROOT)
    assert "has expired" in refusal(issue("a", ROOT, ended=True).shown)
    assert "not valid yet" in refusal(leaf.shown, now=NOW - 86_400)
    assert "has expired" in refusal(leaf.shown, now=NOW + 86_400)


def test_a_certificate_for_servers_only_proves_no_client() -> None:
    def used_for(*uses: x509.ObjectIdentifier) -> Issued:
        return issue("a", ROOT, extensions=(x509.ExtendedKeyUsage(uses),))

    assert "not for this use" in refusal(used_for(ExtendedKeyUsageOID.SERVER_AUTH).shown)
    both = used_for(ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
    assert ANCHORS.verify(both.shown, NOW) == both.certificate


@pytest.mark.parametrize("der", [b"", b"\x30\x03\x02\x01\x01", b"x" * 100, b"\x30" * 5000])
def test_what_is_no_certificate_is_refused(der: bytes) -> None:
    with pytest.raises(InvalidToken, match="cannot be read"):
        read_certificate(der)
    assert "cannot be read" in refusal(ClientCertificate(issue("a", ROOT).der, (der,)))
