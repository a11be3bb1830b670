"""How agents may prove themselves, from the configuration to what judges their requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from agentgw.config.agents import AgentAuth
from agentgw.config.model import Config
from agentgw.core.certificate import ClientCertificate
from agentgw.http.client_certificate import certificate_of
from agentgw.http.presence import Presence
from agentgw.http.request import Networks, Scope
from agentgw.identity import jose
from agentgw.identity.jwk import UnusableKey, VerifyKey, read_jwk
from agentgw.identity.spiffe import SpiffeBundle
from agentgw.sts.client_auth.anchors import TrustAnchors
from agentgw.sts.client_auth.assertion import ReplayStore
from agentgw.sts.client_auth.certificate import (
    SELF_SIGNED,
    TLS_CLIENT_AUTH,
    CertificateCheck,
    read_registered,
)
from agentgw.sts.client_auth.spiffe import SPIFFE_JWT, SPIFFE_X509, SpiffeCheck
from agentgw.sts.clients import METHODS, Client, ClientAuthenticator


class ClientCredentials:
    """The credentials of agents by one configuration; a reload makes another. Raises ConfigError.

    `bundles` are those of its trust domains.
    """

    def __init__(self, config: Config, bundles: Mapping[str, SpiffeBundle]) -> None:
        self.clients: Mapping[str, Client] = {
            name: _client(config, name, agent.auth)
            for name, agent in config.agents.items()
            if agent.auth is not None
        }
        self.bundles = bundles
        self._proxies: Networks = config.trusted_proxies
        self._unix = isinstance(config.address, Path)
        self._header = config.client_certificates.header
        self._authorities = _read_authorities(config)
        self._registered = _registered_certificates(config)
        self.anchors = TrustAnchors(self._authorities) if self._authorities else None
        self._own_tls = config.tls is not None
        self.methods = tuple(self._methods(can_arrive=self._header or config.tls is not None))

    def certificate_of(self, scope: Scope) -> ClientCertificate | None:
        """The certificate the client of a request showed. Raises RefusedRequest."""
        return certificate_of(scope, self._proxies, self._header, self._unix)

    @property
    def can_arrive(self) -> bool:
        """Whether any certificate can: told by a terminator, or asked for on our own TLS."""
        return self._header or (self._own_tls and bool(self.anchors_pem))

    @property
    def anchors_pem(self) -> str:
        """What our own TLS takes client certificates from; empty where none are to be asked for.

        OpenSSL ends a handshake with a certificate that leads to none of these, so what agents
        registered themselves stands among the authorities.
        """
        every = [*self._authorities, *self._registered]
        if self._has_workloads:
            for bundle in self.bundles.values():
                every += bundle.certificates
        return "".join(item.public_bytes(Encoding.PEM).decode("ascii") for item in every)

    @property
    def _has_workloads(self) -> bool:
        return any(client.spiffe_id is not None for client in self.clients.values())

    def _methods(self, can_arrive: bool) -> list[str]:
        """What `token_endpoint_auth_methods_supported` may say: the methods that work here."""
        found = list(METHODS)
        if can_arrive and self.anchors is not None:
            found.append(TLS_CLIENT_AUTH)
        if any(client.registered is not None for client in self.clients.values()):
            found.append(SELF_SIGNED)
        if self._has_workloads:
            found += [SPIFFE_JWT, SPIFFE_X509] if can_arrive else [SPIFFE_JWT]
        return found


def authenticator(
    credentials: Callable[[], ClientCredentials],
    issuer: str,
    used: ReplayStore,
    clock: Callable[[], float],
) -> ClientAuthenticator:
    """What authenticates clients by the `credentials` of the moment; see ClientAuthenticator."""
    return ClientAuthenticator(
        lambda: credentials().clients,
        issuer,
        split=jose.split,
        verify=jose.verify,
        used=used,
        clock=clock,
        certificates=CertificateCheck(lambda: credentials().anchors, clock),
        spiffe=SpiffeCheck(lambda: credentials().bundles, issuer, jose.verify, clock),
    )


def presence(
    config: Config,
    credentials: ClientCredentials,
    clients: ClientAuthenticator,
    clock: Callable[[], float],
) -> Presence | None:
    """What judges the agents with `require: client`; None where there are none."""
    agents = frozenset(name for name, agent in config.agents.items() if agent.require == "client")
    return Presence(agents, credentials.certificate_of, clients.proves, clock) if agents else None


def _client(config: Config, name: str, auth: AgentAuth) -> Client:
    pem = auth.self_signed_tls_client_auth
    return Client(
        name,
        None if auth.secret is None else auth.secret.get_secret_value(),
        _keys(config, name, auth.jwks),
        None if auth.tls_client_auth is None else auth.tls_client_auth.subject,
        None if pem is None else read_registered(pem.encode())[0],
        auth.api_key_hash or (),
        auth.spiffe_id,
    )


def _keys(config: Config, name: str, jwks: Mapping[str, object] | None) -> tuple[VerifyKey, ...]:
    members = (jwks or {}).get("keys", [])
    assert isinstance(members, list)
    try:
        return tuple(read_jwk(member) for member in members)
    except UnusableKey as error:
        raise config.error(
            ("agents", name, "auth", "jwks"), f"holds an unusable key: {error}"
        ) from None


def _read_authorities(config: Config) -> tuple[x509.Certificate, ...]:
    path = config.client_certificates.ca
    if path is None:
        return ()
    try:
        return tuple(x509.load_pem_x509_certificates(Path(path).read_bytes()))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no PEM file of certificates"
        raise config.error(
            ("client_certificates", "ca"), f"client_certificates.ca cannot be used: {reason}"
        ) from None


def _registered_certificates(config: Config) -> tuple[x509.Certificate, ...]:
    pems = (
        agent.auth.self_signed_tls_client_auth
        for agent in config.agents.values()
        if agent.auth is not None and agent.auth.self_signed_tls_client_auth is not None
    )
    return tuple(item for pem in pems for item in read_registered(pem.encode())[1])
