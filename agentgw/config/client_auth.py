"""Who vouches for agents: authorities of certificates, and SPIFFE trust domains."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo

from agentgw.config.values import FilePath, Section, split_url
from agentgw.core.spiffe import is_trust_domain


def _bundle(value: str, info: ValidationInfo) -> str:
    name = value.removeprefix("file:")
    if name == value:
        split_url(value)
        return value
    base = (info.context or {}).get("base")
    return f"file:{name if base is None else base / name}"


def _trust_domain(value: str) -> str:
    if not is_trust_domain(value):
        raise ValueError("should be a trust domain: a-z, 0-9, dots, dashes and underscores")
    return value


TrustDomainName = Annotated[str, AfterValidator(_trust_domain)]


class ClientCertificates(Section):
    """Certificates that agents show, on our own TLS connections or to a terminator before us."""

    ca: FilePath | None = Field(
        default=None,
        description="PEM file of the authorities whose certificates tls_client_auth accepts.",
    )
    header: bool = Field(
        default=False,
        description="Whether the terminators in trusted_proxies, or on our unix socket, send Client-Cert "
        "(RFC 9440) and take it out of what clients send them; from anybody else it is ignored.",
    )


class TrustDomain(Section):
    """A SPIFFE trust domain whose workloads may be agents."""

    bundle: Annotated[str, AfterValidator(_bundle)] = Field(
        description="Its bundle in SPIFFE's own format: file:path, or the https URL of its bundle endpoint "
        "(profile https_web). Both are read again and again, so keys may rotate.",
    )

    @property
    def source(self) -> Path | str:
        """The file or the URL."""
        name = self.bundle.removeprefix("file:")
        return self.bundle if name == self.bundle else Path(name)
