"""Who acts for users: the `agents` section."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from agentgw.config.values import AgentName, Alias, Scope, Section, Text
from agentgw.core.spiffe import parse_spiffe_id
from agentgw.sts.client_auth.api_key import DIGEST
from agentgw.sts.client_auth.certificate import CertificateSubject, read_registered

PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


def _read_jwks(value: Any, info: ValidationInfo) -> Any:
    """The JWK Set (RFC 7517 section 5) of `file:path`, or as written inline; public keys only."""
    if isinstance(value, str):
        value = _parse_file(value, info)
    keys = value.get("keys") if isinstance(value, dict) else None
    if not isinstance(keys, list) or not keys or not all(isinstance(key, dict) for key in keys):
        raise ValueError('should be a JWK Set: {"keys": [...]}')
    if any(PRIVATE_MEMBERS & key.keys() for key in keys):
        raise ValueError("holds a private or symmetric key; only public keys belong here")
    return value


def _parse_file(reference: str, info: ValidationInfo) -> Any:
    name = reference.removeprefix("file:")
    if name == reference:
        raise ValueError("should be file:path or the JWK Set itself")
    text = _read_file(name, info)
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        wanted = 'a JWK Set of public keys, {"keys": [...]}, belongs here'
        pem = " (it looks like PEM)" if text.lstrip().startswith("-----BEGIN") else ""
        raise ValueError(f"{name} is no JSON{pem}; {wanted}") from None


def _read_file(name: str, info: ValidationInfo) -> str:
    base = (info.context or {}).get("base")
    try:
        with open(base / name if base is not None else name, encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        raise ValueError(f"cannot read {name}: {error.strerror}") from None
    except ValueError:
        raise ValueError(f"{name} is no UTF-8 text") from None


def _read_pem(value: Any, info: ValidationInfo) -> Any:
    """The PEM text of `file:path`, or as written inline: certificates and public keys."""
    if not isinstance(value, str):
        raise ValueError("should be file:path or PEM text")
    name = value.removeprefix("file:")
    pem = value if name == value else _read_file(name, info)
    if "PRIVATE KEY" in pem:
        raise ValueError("holds a private key; only certificates and public keys belong here")
    try:
        read_registered(pem.encode())
    except ValueError as error:
        raise ValueError(f"cannot be used: {error}") from None
    return pem


def _listed(value: Any) -> Any:
    """A single word where a list of words may stand."""
    return [value] if isinstance(value, str) else value


ApiKeyDigests = Annotated[
    tuple[Annotated[str, StringConstraints(pattern=DIGEST)], ...],
    Field(min_length=1),
    BeforeValidator(_listed),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": DIGEST},
                {"type": "array", "items": {"type": "string", "pattern": DIGEST}, "minItems": 1},
            ]
        }
    ),
]
"""One digest, or a list of them while a key is replaced."""


class Client(Section):
    """A client of an issuer."""

    issuer: Alias = Field(description="The issuer's alias in this file.")
    client_id: Text = Field(description="The client's id at that issuer.")


class AgentClient(Client):
    """A client whose tokens mean this agent."""

    confidential: bool = Field(
        default=False,
        description="Your word that the issuer authenticates this client, which makes its tokens "
        "evidence `client-auth`.",
    )


def _spiffe_id(value: str) -> str:
    parse_spiffe_id(value)
    return value


class TlsClientAuth(Section):
    """Which certificate of an authority in `client_certificates.ca` is the agent's: one of these."""

    subject_dn: Text | None = Field(
        default=None, description="The whole subject, as RFC 4514 writes it: CN=coder,O=Example."
    )
    san_dns: Text | None = Field(default=None, description="A dNSName among its alternative names.")
    san_uri: Text | None = Field(default=None, description="A URI among its alternative names.")
    san_ip: Text | None = Field(
        default=None, description="An IP address among its alternative names."
    )
    san_email: Text | None = Field(
        default=None, description="An e-mail address among its alternative names."
    )

    @model_validator(mode="after")
    def _one_of(self) -> TlsClientAuth:
        if len(self.model_fields_set) != 1 or None in self.model_dump(exclude_unset=True).values():
            raise ValueError(f"should have exactly one of {', '.join(type(self).model_fields)}")
        try:
            self.subject.check()
        except ValueError as error:
            raise ValueError(f"{self.subject.kind} cannot be read: {error}") from None
        return self

    @property
    def subject(self) -> CertificateSubject:
        """The one that is set."""
        ((kind, value),) = self.model_dump(exclude_unset=True).items()
        subject_kind: Any = kind
        return CertificateSubject(subject_kind, value)


class AgentAuth(Section):
    """How the agent proves itself at /oauth/token: any of these, one in each request."""

    secret: SecretStr | None = Field(
        default=None,
        min_length=1,
        description="A client secret, by reference: ${env:X} or ${file:X}.",
    )
    jwks: Annotated[Mapping[str, Any], BeforeValidator(_read_jwks)] | None = Field(
        default=None,
        description="The public keys for private_key_jwt: file:path, or the JWK Set itself.",
        json_schema_extra={"anyOf": [{"type": "string"}, {"type": "object"}]},
    )
    api_key_hash: ApiKeyDigests | None = Field(
        default=None,
        description="The digest that `agentgw agent key` shows of an API key, or several; the key is sent as "
        "a client secret.",
    )
    tls_client_auth: TlsClientAuth | None = Field(
        default=None,
        description="The subject of its TLS certificate, issued by an authority of client_certificates.ca.",
    )
    self_signed_tls_client_auth: Annotated[str, BeforeValidator(_read_pem)] | None = Field(
        default=None,
        description="Its own TLS certificates, and bare public keys for certificates that a terminator "
        "passes on: file:path of a PEM file, or the PEM text itself.",
    )

    spiffe_id: Annotated[str, AfterValidator(_spiffe_id)] | None = Field(
        default=None,
        description="The workload it is: spiffe://trust-domain/path, proven by JWT-SVID or X.509-SVID; the "
        "trust domain stands under `spiffe`.",
    )

    @model_validator(mode="after")
    def _any_of(self) -> AgentAuth:
        if not any(getattr(self, name) is not None for name in type(self).model_fields):
            raise ValueError(f"should have one or more of {', '.join(type(self).model_fields)}")
        return self

    @property
    def by_certificate(self) -> bool:
        """Whether it has a way that needs a TLS certificate; a workload may come by JWT-SVID instead."""
        return self.tls_client_auth is not None or self.self_signed_tls_client_auth is not None


class ClientCredentials(Section):
    """What an agent may have with no user behind it."""

    scope: Scope | None = Field(
        default=None, description="Scopes it may ask for, with spaces between; default none."
    )


def _document_pattern(value: str) -> str:
    if value != "*" and not value.startswith(("https://", "http://")):
        raise ValueError("should be a URL, the beginning of one followed by *, or * alone")
    if "*" in value[:-1]:
        raise ValueError("should have its * at the end only")
    if value.endswith("*") and value != "*" and value.count("/") < 3:
        raise ValueError("should name a whole host before its *: https://example.com/*")
    return value


class AgentLogin(Section):
    """How users sign in for an agent at the gateway itself."""

    redirect_uris: tuple[Text, ...] = Field(
        default=(),
        description="Where a client whose client_id is the agent's name may have users sent back to; on "
        "loopback, one port stands for all.",
    )
    client_metadata: tuple[Annotated[str, AfterValidator(_document_pattern)], ...] = Field(
        default=(),
        description="Clients known by a document at their client_id (CIMD) that are this agent: its URL, the "
        "beginning of URLs followed by `*`, or `*` for any.",
    )
    dynamic: bool = Field(
        default=False,
        description="Whether clients that register themselves (RFC 7591) are this agent; one agent may have "
        "it, and /oauth/register is there while one has.",
    )


class Agent(Section):
    """One agent; its name is the key, its id `{public_url}/a2a/{name}`."""

    owner: Text | None = Field(default=None, description="Whom to ask about this agent.")
    disabled: bool = Field(default=False, description="true cuts its calls and closes its streams.")
    clients: tuple[AgentClient, ...] = Field(
        default=(), description="Clients of issuers whose tokens mean this agent."
    )
    subject_from: tuple[Client, ...] = Field(
        default=(),
        description="Clients whose users' tokens this agent may exchange as the first hop.",
    )
    may_hand_to: tuple[AgentName, ...] = Field(
        default=(), description="Agents this one may hand its work to."
    )
    auth: AgentAuth | None = Field(
        default=None, description="How it authenticates at /oauth/token; without it, not at all."
    )
    client_credentials: ClientCredentials | None = Field(
        default=None,
        description="Lets it act for itself, with no user ({} is enough); grants must name it as a user: "
        '`users: ["agent:NAME"]`.',
    )
    login: AgentLogin | None = Field(
        default=None,
        description="Lets users sign in for it at the gateway; needs the `login` section.",
    )
    max_depth: int = Field(
        default=4, ge=1, le=16, description="The longest chain of agents it may stand in."
    )
    require: Literal["dpop", "mtls", "client"] | None = Field(
        default=None,
        description="What to demand of its requests at /mcp: `dpop`, a token bound to a DPoP key, and a "
        "proof; `mtls`, a token bound to a TLS certificate, and that certificate; `client`, its own TLS "
        "certificate with each of them, whatever the token.",
    )
    refusals: Literal["rpc_error", "tool_result"] = Field(
        default="rpc_error",
        description="How a refused tools/call is answered: a JSON-RPC error, or a result with isError.",
    )
