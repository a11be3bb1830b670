"""The gateway as the authorization server that people meet: the `login` section."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SecretStr, model_validator

from agentgw.config.values import Alias, Duration, FilePath, Scope, Section, Text

DAY = 86_400


class Login(Section):
    """Where users sign in, so that agents without a client of their own can be let in by them."""

    issuer: Alias = Field(description="The alias under `issuers` of whom users sign in at.")
    client_id: Text = Field(
        description="The gateway's own client there; its redirect URI is {public_url}/oauth/callback."
    )
    client_secret: SecretStr | None = Field(
        default=None,
        min_length=1,
        description="Its secret, by reference: ${env:X} or ${file:X}; without secret and key it is a "
        "public client.",
    )
    client_key: FilePath | None = Field(
        default=None,
        description="Instead of a secret, for private_key_jwt: a PEM file with a private key of its own "
        "(P-256, RSA from 2048 bits, or Ed25519).",
    )
    client_key_id: Text | None = Field(default=None, description="The `kid` of that key there.")
    scope: Scope = Field(
        default="openid",
        description="The scopes to ask for at sign-in; openid is added. Groups may need one.",
    )
    offline_access: bool | None = Field(
        default=None,
        description="Whether to ask for offline_access, and so for a refresh token by which the provider "
        "can be asked again; null: where it advertises it.",
    )
    recheck: Annotated[Duration, Field(le=DAY)] = Field(
        default=3600,
        description="How long what the provider said of a user (groups, that they are there at all) counts "
        "before it is asked again as a login goes on, up to 1d.",
    )
    recheck_limit: Annotated[Duration, Field(le=7 * DAY)] = Field(
        default=8 * 3600,
        description="How long it counts at most while the provider cannot be asked, recheck to 7d.",
    )
    max_age: Annotated[Duration, Field(ge=60, le=30 * DAY)] = Field(
        default=DAY,
        description="How long after the sign-in logins end where the provider gives no refresh token to ask "
        "again by, 1m to 30d.",
    )
    session_life: Annotated[Duration, Field(ge=60, le=7 * DAY)] = Field(
        default=8 * 3600, description="How long a browser stays signed in, 1m to 7d."
    )
    consent_life: Annotated[Duration, Field(ge=60, le=366 * DAY)] = Field(
        default=30 * DAY, description="How long a consent may last at most, 1m to 366d."
    )
    refresh_life: Annotated[Duration, Field(ge=60, le=366 * DAY)] = Field(
        default=DAY, description="How long a refresh token may lie unused, 1m to consent_life."
    )

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Login:
        if self.client_secret is not None and self.client_key is not None:
            raise ValueError("should have one of client_secret and client_key, not both")
        if self.client_key_id is not None and self.client_key is None:
            raise ValueError("has no client_key for client_key_id to speak of")
        if self.refresh_life > self.consent_life:
            raise ValueError("has a refresh_life longer than consent_life")
        if self.recheck > self.recheck_limit:
            raise ValueError("has a recheck longer than recheck_limit")
        return self
