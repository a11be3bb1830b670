"""Tool servers that know their users by OAuth accounts of their own, which users connect."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr, model_validator

from agentgw.config.values import FilePath, Scope, Section, Text, Url, available


class UserAccounts(Section):
    """For `mode: oauth`: who makes the tokens of users' own accounts, and who we are there.

    Without `client_id` the gateway is the client whose metadata it publishes at `/oauth/client.json`.
    """

    issuer: Url | None = Field(
        default=None,
        description="The one authorization server to connect at; default the first one that the server's "
        "own metadata names (RFC 9728).",
    )
    resource: Url | None = Field(
        default=None,
        description="The server's resource identifier, where that is another than its url.",
    )
    client_id: Text | None = Field(
        default=None, description="The gateway's client there, registered by hand; needs issuer."
    )
    client_secret: SecretStr | None = Field(
        default=None, min_length=1, description="Its secret, by reference: ${env:X} or ${file:X}."
    )
    client_auth: Annotated[
        Literal["client_secret_basic", "client_secret_post"],
        available("client_secret_basic", "client_secret_post"),
    ] = Field(default="client_secret_basic", description="How the secret is sent.")
    client_key: FilePath | None = Field(
        default=None,
        description="Instead of a secret, for private_key_jwt: a PEM file with a private key.",
    )
    client_key_id: Text | None = Field(default=None, description="The `kid` of that key there.")
    scope: Scope | None = Field(
        default=None,
        description="The scope to ask for; default what the server's challenge or metadata names.",
    )
    lists: Literal["connected", "none"] = Field(
        default="connected",
        description="How the gateway asks for lists of tools: with the account connected last, or with none.",
    )
    timeout: Annotated[float, Field(gt=0, le=20)] = Field(
        default=5,
        description="Seconds that discovery, or one request for a token, may take in all.",
    )

    @model_validator(mode="after")
    def _agree(self) -> UserAccounts:
        if self.client_id is None and (self.client_secret or self.client_key):
            raise ValueError("has a secret or key, and no client_id it belongs to")
        if self.client_secret is not None and self.client_key is not None:
            raise ValueError("should have one of client_secret and client_key")
        if self.client_id is not None and self.issuer is None:
            raise ValueError(
                "should name the issuer at which client_id is registered: else the server chose who "
                "gets to see its secret"
            )
        if self.client_key_id is not None and self.client_key is None:
            raise ValueError("has no client_key for client_key_id to speak of")
        return self
