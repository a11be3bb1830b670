"""The chain of agents behind a call, as `act` and `may_act` claims (RFC 8693 sections 4.1 and 4.4)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from agentgw.core.principal import EVIDENCE, Hop

DEFAULT_MAX_DEPTH = 4
"""How many `act` objects a chain may hold where no agent of it says less or more."""

_ASSERTED = EVIDENCE.index("act-claim")


def act_claim(
    chain: Sequence[Hop], issuer: str, *, presented: bool = False
) -> dict[str, Any] | None:
    """The nested `act` of a chain that runs from the current actor outwards; None for an empty one.

    `presented` puts the gateway in front: it presents a token that is bound to a key of its own.

    Only identity stands inside: times, audiences or scopes in an `act` mean nothing (RFC 8693
    section 4.1).
    """
    act: dict[str, Any] | None = None
    for hop in reversed(chain):
        outer: dict[str, Any] = {"iss": issuer, "sub": hop.id, "sub_profile": "ai_agent"}
        if act is not None:
            outer["act"] = act
        act = outer
    if presented and act is not None:
        return {"iss": issuer, "sub": issuer, "sub_profile": "service", "act": act}
    return act


def may_act_claim(agent_id: str, issuer: str) -> dict[str, Any]:
    """The `may_act` that names one agent (RFC 8693 section 4.4)."""
    return {"iss": issuer, "sub": agent_id}


@dataclass(frozen=True, slots=True)
class Steps:
    """Which agent may come after which in a chain, by today's configuration; all by configured name.

    `hands` holds to whom each agent may hand over, `behind` the agents that stand behind tool servers.
    """

    hands: Mapping[str, Collection[str]]
    behind: Collection[str]

    def broken(self, chain: Sequence[Hop]) -> tuple[Hop, Hop] | None:
        """The first step of a chain that may not be taken any more: who came, and after whom.

        Where another issuer asserted the earlier of the two, it vouched for the step as well.
        """
        for later, earlier in pairwise(chain):
            if EVIDENCE.index(earlier.evidence) <= _ASSERTED:
                continue
            allowed = self.behind if later.behind else self.hands.get(earlier.agent or "", ())
            if later.agent not in allowed:
                return later, earlier
        return None


def has_cycle(chain: Sequence[Hop]) -> bool:
    """Whether one agent stands in the chain twice."""
    return len({hop.id for hop in chain}) != len(chain)
