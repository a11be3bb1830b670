"""The chain of agents behind a call, as `act` and `may_act` claims (RFC 8693 sections 4.1 and 4.4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentgw.core.principal import Hop

DEFAULT_MAX_DEPTH = 4
"""How many `act` objects a chain may hold where no agent of it says less or more."""


def act_claim(chain: Sequence[Hop], issuer: str) -> dict[str, Any] | None:
    """The nested `act` of a chain that runs from the current actor outwards; None for an empty one.

    Only identity stands inside: times, audiences or scopes in an `act` mean nothing (RFC 8693
    section 4.1).
    """
    act: dict[str, Any] | None = None
    for hop in reversed(chain):
        outer: dict[str, Any] = {"iss": issuer, "sub": hop.id, "sub_profile": "ai_agent"}
        if act is not None:
            outer["act"] = act
        act = outer
    return act


def may_act_claim(agent_id: str, issuer: str) -> dict[str, Any]:
    """The `may_act` that names one agent (RFC 8693 section 4.4)."""
    return {"iss": issuer, "sub": agent_id}


def has_cycle(chain: Sequence[Hop]) -> bool:
    """Whether one agent stands in the chain twice."""
    return len({hop.id for hop in chain}) != len(chain)
