"""Authorization servers that are not ours, and the tool servers that take their tokens."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr, model_validator

from agentgw.config.values import Alias, FilePath, Scope, Seconds, Section, Text, Url, available


class AuthorizationServer(Section):
    """An authorization server at which the gateway is a client."""

    issuer: Url = Field(
        description="Its issuer identifier, which its metadata and tokens must name."
    )
    client_id: Text = Field(description="The gateway's own client there.")
    client_secret: SecretStr | None = Field(
        default=None, min_length=1, description="Its secret, by reference: ${env:X} or ${file:X}."
    )
    client_auth: Annotated[
        Literal["client_secret_basic", "client_secret_post"],
        available("client_secret_basic", "client_secret_post"),
    ] = Field(default="client_secret_basic", description="How the secret is sent.")
    client_key: FilePath | None = Field(
        default=None,
        description="Instead of a secret, for private_key_jwt: a PEM file with a private key of its own "
        "(P-256, RSA from 2048 bits, or Ed25519).",
    )
    client_key_id: Text | None = Field(default=None, description="The `kid` of that key there.")
    assertion_audience: Text | None = Field(
        default=None,
        description="The `aud` of private_key_jwt, where it is another than the issuer.",
    )
    token_endpoint: Url | None = Field(
        default=None, description="Where to ask, instead of where the metadata says."
    )
    jwks_uri: Url | None = Field(
        default=None, description="Where its keys are, instead of where the metadata says."
    )
    tokens: Literal["jwt", "introspection", "opaque"] = Field(
        default="jwt",
        description="What its access tokens are: `jwt`, checked by its keys; `introspection`, it is asked "
        "about them (RFC 7662, with client_secret); `opaque`, nobody here can read them and "
        "only the answer's scope and lifetime are checked.",
    )
    introspection_endpoint: Url | None = Field(
        default=None, description="Where to ask about tokens, instead of where the metadata says."
    )
    timeout: Seconds = Field(default=5, description="Seconds one exchange may take in all.")

    @model_validator(mode="after")
    def _one_credential(self) -> AuthorizationServer:
        if (self.client_secret is None) == (self.client_key is None):
            raise ValueError("should have exactly one of client_secret and client_key")
        if self.client_key is None and (self.client_key_id or self.assertion_audience):
            raise ValueError(
                "has no client_key for client_key_id or assertion_audience to speak of"
            )
        if self.tokens == "introspection" and self.client_secret is None:
            raise ValueError("needs client_secret to ask about tokens")
        return self


class Exchange(Section):
    """For `mode: exchange`: what to ask another authorization server for, and what it must give."""

    authorization_server: Alias = Field(
        description="Its name under `authorization_servers`; it makes the tokens the server takes."
    )
    grant: Literal[
        "token-exchange", "on-behalf-of", "jwt-bearer", "id-jag", "identity-chaining"
    ] = Field(
        default="token-exchange",
        description="`token-exchange` (RFC 8693); `on-behalf-of` (Entra) and `jwt-bearer` (RFC 7523) show "
        "the subject as assertion; `id-jag` and `identity-chaining` get a grant from `via` "
        "first.",
    )
    via: Alias | None = Field(
        default=None,
        description="For grants of two steps: the authorization server that is asked first.",
    )
    subject: Literal["caller", "gateway"] = Field(
        default="caller",
        description="What stands for the user: the caller's own token, where the server asked issued it; or "
        "a grant with user and agents, signed by the gateway, which that server must trust.",
    )
    audience: Text | None = Field(
        default=None, description="The `audience` to ask for, and the `aud` that tokens must have."
    )
    resource: Url | None = Field(
        default=None,
        description="The `resource` to ask for (RFC 8707); the `aud` unless audience is set.",
    )
    scope: Scope | None = Field(
        default=None, description="The scope to ask for, where a tool has none of its own."
    )
    allowed_scopes: tuple[Text, ...] = Field(
        default=(), description="Scopes that may come back besides those asked for."
    )
    subject_claim: Text = Field(
        default="sub",
        description="The claim that must name the same user in both tokens; `oid` for Entra.",
    )
    act: Literal["kept", "optional"] = Field(
        default="kept",
        description="Whether the agents shown to the server must stand in its answer's `act`; `optional` "
        "lets a server pass that writes none. Other agents never pass.",
    )
    outlive: int = Field(
        default=0,
        ge=0,
        le=86_400,
        description="Seconds a token may live on after the caller's own ends; it is not used for that long.",
    )
    lists: Literal["client_credentials", "none"] = Field(
        default="client_credentials",
        description="How the gateway asks for lists of tools: by a token of its own from that server, or "
        "none.",
    )

    @property
    def expected_audience(self) -> str:
        """The one `aud` its tokens may have."""
        return self.audience or self.resource or ""

    @model_validator(mode="after")
    def _agree(self) -> Exchange:
        if not self.expected_audience:
            raise ValueError("should have audience or resource: what its tokens are for")
        if (self.grant in ("id-jag", "identity-chaining")) != (self.via is not None):
            raise ValueError("should have via with id-jag and identity-chaining, and only there")
        return self


class OwnAccount(Section):
    """For `mode: client_credentials`: the one account that all calls of a server go under."""

    authorization_server: Alias = Field(
        description="Its name under `authorization_servers`; it makes the tokens the server takes."
    )
    audience: Text | None = Field(
        default=None, description="The `audience` to ask for, and the `aud` that tokens must have."
    )
    resource: Url | None = Field(
        default=None,
        description="The `resource` to ask for (RFC 8707); the `aud` unless audience is set.",
    )
    scope: Scope | None = Field(default=None, description="The scope to ask for.")
    allowed_scopes: tuple[Text, ...] = Field(
        default=(), description="Scopes that may come back besides those asked for."
    )

    @property
    def expected_audience(self) -> str:
        """The one `aud` its tokens may have."""
        return self.audience or self.resource or ""

    @model_validator(mode="after")
    def _agree(self) -> OwnAccount:
        if not self.expected_audience:
            raise ValueError("should have audience or resource: what its tokens are for")
        return self
