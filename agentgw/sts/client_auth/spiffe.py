"""Clients that prove themselves as workloads of a SPIFFE trust domain, by JWT-SVID or X.509-SVID.

draft-ietf-oauth-spiffe-client-auth over the SPIFFE specifications JWT-SVID and X509-SVID. Whose keys
count is up to the trust domain of the one ID that is configured for the client: a domain vouches for
none but its own workloads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from cryptography import x509

from agentgw.core.certificate import ClientCertificate
from agentgw.core.spiffe import parse_spiffe_id
from agentgw.errors import InvalidToken
from agentgw.sts.client_auth.anchors import TrustAnchors
from agentgw.sts.client_auth.assertion import Assertion, check_audience_and_times

SPIFFE_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe"
SPIFFE_JWT = "spiffe_jwt"
SPIFFE_X509 = "spiffe_x509"

_ALGORITHMS = frozenset(
    {"RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512"}
)
_TYPES = (None, "jwt", "jose")


class TrustBundle(Protocol):
    """What a trust domain's workloads are known by at this moment."""

    @property
    def certificates(self) -> tuple[x509.Certificate, ...]:
        """The authorities of its X.509-SVIDs."""
        ...

    async def find(self, kid: str) -> Any:
        """The key of its JWT-SVIDs under `kid`. Raises InvalidToken."""
        ...


class SpiffeCheck:
    """Judges SVIDs. `bundles` gives those known now by trust domain, `issuer` is the one audience.

    `verify(unverified, key)` checks a signature and raises InvalidToken; `clock` gives Unix seconds.
    """

    def __init__(
        self,
        bundles: Callable[[], Mapping[str, TrustBundle]],
        issuer: str,
        verify: Callable[[Any, Any], None],
        clock: Callable[[], float],
    ) -> None:
        self._bundles = bundles
        self._issuer = issuer
        self._verify = verify
        self._clock = clock

    async def by_jwt(self, svid: Assertion, spiffe_id: str) -> None:
        """The JWT-SVID is of this workload and for us. Raises InvalidToken.

        It may serve again until its `exp`, five minutes ahead at most: workloads are handed one from
        a cache, as its specification has it.
        """
        if svid.typ not in _TYPES or svid.alg not in _ALGORITHMS or svid.kid is None:
            raise InvalidToken("its header is not that of a JWT-SVID (typ, alg, kid)")
        claims = dict(svid.claims)
        if claims.get("sub") != spiffe_id:
            raise InvalidToken("sub is not the SPIFFE ID registered for this client")
        if claims.get("aud") == [self._issuer]:
            claims["aud"] = self._issuer
        self._verify(svid, await self._bundle_of(spiffe_id).find(svid.kid))
        check_audience_and_times(claims, self._issuer, self._clock())

    def by_certificate(self, svid: ClientCertificate, spiffe_id: str) -> None:
        """The X.509-SVID is of this workload. Raises InvalidToken."""
        authorities = self._bundle_of(spiffe_id).certificates
        if not authorities:
            raise InvalidToken("the bundle of the trust domain holds no X.509 authority")
        leaf = TrustAnchors(authorities).verify(svid, self._clock())
        if _uris(leaf) != [spiffe_id]:
            raise InvalidToken("its one URI is not the SPIFFE ID registered for this client")
        _check_leaf(leaf)

    def _bundle_of(self, spiffe_id: str) -> TrustBundle:
        bundle = self._bundles().get(parse_spiffe_id(spiffe_id))
        if bundle is None:
            raise InvalidToken("no bundle is configured for the trust domain of this client")
        return bundle


def _uris(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return names.value.get_values_for_type(x509.UniformResourceIdentifier)


def _check_leaf(certificate: x509.Certificate) -> None:
    """X509-SVID sections 4.1 and 4.3: a leaf signs nothing but its own messages."""
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        raise InvalidToken("the X.509-SVID names no key usage") from None
    try:
        is_ca = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        is_ca = False
    if is_ca or not usage.digital_signature or usage.key_cert_sign or usage.crl_sign:
        raise InvalidToken("the certificate is no leaf of a trust domain, but signs others")
