from __future__ import annotations

import time
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from agentgw.core.certificate import ClientCertificate
from agentgw.errors import InvalidToken
from agentgw.identity import jose
from agentgw.identity.jwk import VerifyKey
from agentgw.identity.spiffe import Bundle, read_bundle
from agentgw.sts.client_auth.spiffe import SpiffeCheck
from tests.certificates import issue, uri
from tests.spiffe import LEAF_USAGE, TrustDomain

pytestmark = pytest.mark.anyio

GATEWAY = "https://gw.example.com"
OURS, OTHER = TrustDomain("agents.example"), TrustDomain("other.example")
CODER = OURS.id("coder")
NOW = time.time()


class Known:
    """A bundle that is what its domain says now."""

    def __init__(self, domain: TrustDomain) -> None:
        self._domain = domain

    @property
    def _bundle(self) -> Bundle:
        return read_bundle(self._domain.bundle())

    @property
    def certificates(self) -> tuple[x509.Certificate, ...]:
        return self._bundle.certificates

    async def find(self, kid: str) -> VerifyKey:
        if kid not in self._bundle.keys:
            raise InvalidToken("unknown kid")
        return self._bundle.keys[kid]


CHECK = SpiffeCheck(
    lambda: {OURS.name: Known(OURS), OTHER.name: Known(OTHER)}, GATEWAY, jose.verify, lambda: NOW
)


def svid(domain: TrustDomain = OURS, path: str = "coder", **changes: Any) -> str:
    return domain.jwt_svid(path, changes.pop("aud", GATEWAY), NOW, **changes)


async def refusal(token: str, spiffe_id: str = CODER) -> str:
    with pytest.raises(InvalidToken) as caught:
        await CHECK.by_jwt(jose.split(token), spiffe_id)
    return caught.value.reason


async def test_a_jwt_svid_for_us_proves_its_workload_as_often_as_it_lives() -> None:
    token = svid()
    for shown in (token, token, svid(aud=[GATEWAY]), svid(typ=None), svid(typ="JOSE")):
        await CHECK.by_jwt(jose.split(shown), CODER)


async def test_a_jwt_svid_of_another_workload_or_trust_domain() -> None:
    assert "not the SPIFFE ID" in await refusal(svid(path="planner"))
    assert "not the SPIFFE ID" in await refusal(svid(OTHER))
    # Signed by a domain we know, and says what it has no right to.
    assert await refusal(svid(OTHER, sub=CODER))
    stranger = TrustDomain("stranger.example")
    assert "no bundle" in await refusal(svid(stranger), stranger.id("coder"))


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "https://other.example"},
        {"aud": [GATEWAY, "https://other.example"]},
        {"aud": f"{GATEWAY}/oauth/token"},
        {"aud": []},
        {"exp": None},
        {"exp": int(NOW) - 10},
        {"exp": int(NOW) + 3600},
        {"iat": int(NOW) + 60},
        {"kid": None},
        {"kid": "j2"},
        {"typ": "at+jwt"},
        {"sub": None},
        {"sub": "coder"},
    ],
)
async def test_a_jwt_svid_that_is_not_for_us_now(changes: dict[str, Any]) -> None:
    assert await refusal(svid(**changes))


async def test_a_jwt_svid_under_the_key_of_an_x509_authority_or_of_nobody() -> None:
    claims = {"sub": CODER, "aud": GATEWAY, "exp": int(NOW) + 60}
    for key in (OURS.root.key, ec.generate_private_key(ec.SECP256R1())):
        assert await refusal(jwt.encode(claims, key, "ES256", headers={"kid": "j1"}))


def by_certificate(shown: ClientCertificate, spiffe_id: str = CODER) -> str | None:
    try:
        CHECK.by_certificate(shown, spiffe_id)
    except InvalidToken as error:
        return error.reason
    return None


def test_an_x509_svid_proves_its_workload() -> None:
    assert by_certificate(OURS.x509_svid("coder").shown) is None
    between = issue("between", OURS.root, ca=True)
    leaf = issue("", between, uri(CODER), extensions=(LEAF_USAGE,))
    assert by_certificate(ClientCertificate(leaf.der, (between.der,))) is None


def test_an_x509_svid_of_another_workload_or_trust_domain() -> None:
    assert "not the SPIFFE ID" in str(by_certificate(OURS.x509_svid("planner").shown))
    assert "no configured authority" in str(by_certificate(OTHER.x509_svid("coder").shown))
    # The other domain's authority says what it has no right to.
    foreign = issue("", OTHER.root, uri(CODER), extensions=(LEAF_USAGE,))
    assert "no configured authority" in str(by_certificate(foreign.shown))


def test_an_x509_svid_that_is_none() -> None:
    two = issue("", OURS.root, uri(CODER), uri(OURS.id("planner")), extensions=(LEAF_USAGE,))
    assert "not the SPIFFE ID" in str(by_certificate(two.shown))
    assert "not the SPIFFE ID" in str(by_certificate(issue(CODER, OURS.root).shown))
    bare = issue("", OURS.root, uri(CODER))
    assert "no key usage" in str(by_certificate(bare.shown))
    signer = issue("", OURS.root, uri(CODER), ca=True)
    assert by_certificate(signer.shown) is not None
    assert "has expired" in str(by_certificate(OURS.x509_svid("coder", ended=True).shown))
