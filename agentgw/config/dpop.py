"""Proofs of possession by DPoP: the `dpop` section."""

from __future__ import annotations

from pydantic import Field

from agentgw.config.values import Section


class Dpop(Section):
    """How fresh an agent's DPoP proofs must be; whether tokens are bound is up to agents (`require`)."""

    proof_seconds: int = Field(
        default=60,
        ge=5,
        le=300,
        description="Seconds a proof's `iat` may lie before or after the gateway's clock.",
    )
    nonce: bool = Field(
        default=False,
        description="Whether each proof must carry a nonce of ours, which stops proofs made in advance.",
    )
    nonce_seconds: int = Field(
        default=300,
        ge=30,
        le=3600,
        description="Seconds a nonce is good for, at most twice as many.",
    )
