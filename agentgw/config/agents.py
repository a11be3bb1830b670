"""Who acts for users: the `agents` section."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, ValidationInfo, model_validator

from agentgw.config.values import AgentName, Alias, Section, Text

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
    base = (info.context or {}).get("base")
    try:
        with open(base / name if base is not None else name, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise ValueError(f"cannot read {name}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ValueError(f"{name} is no JSON") from None


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


class AgentAuth(Section):
    """How the agent proves itself at /oauth/token: one of the two."""

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

    @model_validator(mode="after")
    def _one_of(self) -> AgentAuth:
        if (self.secret is None) == (self.jwks is None):
            raise ValueError("should have exactly one of secret and jwks")
        return self


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
    max_depth: int = Field(
        default=4, ge=1, le=16, description="The longest chain of agents it may stand in."
    )
    require: Literal["dpop", "mtls", "client"] | None = Field(
        default=None, description="Proof of possession to demand; not available in this version."
    )
    refusals: Literal["rpc_error", "tool_result"] = Field(
        default="rpc_error",
        description="How a refused tools/call is answered: a JSON-RPC error, or a result with isError.",
    )
