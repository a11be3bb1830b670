"""What must hold between an agent's ways to prove itself and what the gateway can see of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from agentgw.config.agents import AgentAuth
from agentgw.config.model import Config
from agentgw.config.problems import did_you_mean
from agentgw.config.source import Loc
from agentgw.config.values import is_loopback, split_url
from agentgw.core.spiffe import parse_spiffe_id
from agentgw.sts.client_auth.certificate import CertificateSubject, read_registered

Found = tuple[Loc, str, str]
"""Where, what is wrong, and what would mend it."""

SECRET_CHARACTERS = 16
"""The least a client secret has: RFC 6749 section 10.10 asks for 128 bits, and fewer bytes hold less."""


def check_client_auth(config: Config) -> Iterator[Found]:
    """Every problem with certificates and the other credentials of agents."""
    local = isinstance(config.address, Path)
    if config.client_certificates.header and not config.trusted_proxies and not local:
        yield (
            ("client_certificates", "header"),
            "header: true without trusted_proxies",
            "name the networks of the terminators that send Client-Cert",
        )
    yield from _check_bundles(config)
    subjects: dict[CertificateSubject, str] = {}
    workloads: dict[str, str] = {}
    for name, agent in config.agents.items():
        if agent.require == "client":
            yield from _check_presence(config, ("agents", name, "require"), agent.auth)
        if agent.require == "mtls" and not _asks_for_any(config):
            yield (
                ("agents", name, "require"),
                "require: mtls asks for tokens bound to a TLS certificate, and none can come",
                "set tls and client_certificates.ca, or client_certificates.header",
            )
        if agent.auth is None:
            if agent.client_credentials is not None:
                yield (
                    ("agents", name, "client_credentials"),
                    "an agent that cannot authenticate acts for nobody",
                    "give it auth",
                )
            continue
        loc: Loc = ("agents", name, "auth")
        yield from _check_secret((*loc, "secret"), name, agent.auth)
        yield from _check_arrival(config, loc, agent.auth)
        if (workload := agent.auth.spiffe_id) is not None:
            yield from _check_workload(config, (*loc, "spiffe_id"), workload)
            first = workloads.setdefault(workload, name)
            if first != name:
                yield (*loc, "spiffe_id"), f"this workload already is the agent {first}", ""
        if agent.auth.tls_client_auth is None:
            continue
        where = (*loc, "tls_client_auth")
        if config.client_certificates.ca is None:
            yield (
                where,
                "tls_client_auth without client_certificates.ca",
                "name the PEM file of the authorities that issue these certificates",
            )
        first = subjects.setdefault(agent.auth.tls_client_auth.subject, name)
        if first != name:
            yield where, f"this certificate already means the agent {first}", ""


def _check_secret(loc: Loc, name: str, auth: AgentAuth) -> Iterator[Found]:
    """A client secret can be tried as often as anybody likes, so it must be none that somebody thought of."""
    if auth.secret is None or len(auth.secret.get_secret_value()) >= SECRET_CHARACTERS:
        return
    length = len(auth.secret.get_secret_value())
    yield (
        loc,
        f"this secret can be guessed: it has {length} characters, and {SECRET_CHARACTERS} are the least",
        f"make one with `openssl rand -base64 32`, or an API key with `agentgw agent key {name}`",
    )


def _check_bundles(config: Config) -> Iterator[Found]:
    for name, domain in config.spiffe.items():
        if config.dev or not isinstance(url := domain.source, str):
            continue
        parts = split_url(url)
        if parts.scheme == "http" or is_loopback(parts.hostname or ""):
            yield (
                ("spiffe", name, "bundle"),
                "the bundle's URL is plain http or loopback",
                "use https; dev: true allows it on a machine of your own",
            )


def _check_workload(config: Config, loc: Loc, workload: str) -> Iterator[Found]:
    domain = parse_spiffe_id(workload)
    if domain not in config.spiffe:
        hint = did_you_mean(domain, config.spiffe)
        yield loc, f"unknown trust domain {domain!r}", hint or "name its bundle under spiffe"


def _check_presence(config: Config, loc: Loc, auth: AgentAuth | None) -> Iterator[Found]:
    """An agent that must show its certificate has one, and it can reach us."""
    has_one = auth is not None and (auth.by_certificate or auth.spiffe_id is not None)
    can_arrive = config.tls is not None or config.client_certificates.header
    if not has_one or not can_arrive:
        yield (
            loc,
            "require: client asks for the agent's TLS certificate with each request, and none can come",
            "give it tls_client_auth, self_signed_tls_client_auth or spiffe_id, and set tls or "
            "client_certificates.header",
        )


def _asks_for_any(config: Config) -> bool:
    """Whether clients can show certificates: what our own TLS asks for must lead somewhere."""
    registered = any(
        agent.auth is not None and (agent.auth.by_certificate or agent.auth.spiffe_id is not None)
        for agent in config.agents.values()
    )
    leads = registered or config.client_certificates.ca is not None
    return config.client_certificates.header or (config.tls is not None and leads)


def _check_arrival(config: Config, loc: Loc, auth: AgentAuth) -> Iterator[Found]:
    """A certificate can reach us: on our own TLS, or told by a terminator."""
    if config.client_certificates.header or not auth.by_certificate:
        return
    if config.tls is None:
        yield (
            loc,
            "a certificate can prove this agent, and none can arrive",
            "set tls, or client_certificates.header for a terminator that sends Client-Cert",
        )
    elif auth.self_signed_tls_client_auth is not None:
        if read_registered(auth.self_signed_tls_client_auth.encode())[0].keys:
            yield (
                (*loc, "self_signed_tls_client_auth"),
                "a bare public key works behind a terminator only (client_certificates.header)",
                "register the certificate: our own TLS refuses those it does not know",
            )
