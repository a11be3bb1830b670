"""The chain of agents behind a call, as `act` and `may_act` claims (RFC 8693 sections 4.1 and 4.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agentgw.core.principal import Hop

DEFAULT_MAX_DEPTH = 4
"""How many `act` objects a chain may hold where no agent of it says less or more."""

_MAX_NAME = 2048


class BadDelegation(ValueError):
    """An `act` or `may_act` that names nobody we can rely on; the message says why."""


@dataclass(frozen=True, slots=True)
class Actor:
    """One party named by `act` or `may_act`; `iss` is None where the token leaves it out."""

    iss: str | None
    sub: str


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


def parse_act(value: object, max_depth: int) -> tuple[Actor, ...]:
    """The actors of a parsed `act` claim, current one first.

    Raises BadDelegation when a level is no object, has no proper `sub`, or more than `max_depth`
    levels are nested. Members other than `iss`, `sub` and `act` are left behind.
    """
    actors: list[Actor] = []
    level: object = value
    while level is not None:
        if len(actors) == max_depth:
            raise BadDelegation(f"act is nested more than {max_depth} levels deep")
        actors.append(_actor(level, "act"))
        assert isinstance(level, dict)
        if "act" in level and level["act"] is None:
            raise BadDelegation("act holds a null act")
        level = level.get("act")
    if not actors:
        raise BadDelegation("act is null")
    return tuple(actors)


def parse_may_act(value: object) -> Actor:
    """The one party a `may_act` claim names. Raises BadDelegation."""
    return _actor(value, "may_act")


def depth(chain: Sequence[Hop]) -> int:
    """How many `act` objects the chain makes."""
    return len(chain)


def has_cycle(chain: Sequence[Hop]) -> bool:
    """Whether one agent stands in the chain twice."""
    return len({hop.id for hop in chain}) != len(chain)


def _actor(value: object, claim: str) -> Actor:
    if not isinstance(value, dict):
        raise BadDelegation(f"{claim} is no object")
    sub = value.get("sub")
    if not isinstance(sub, str) or not sub or len(sub) > _MAX_NAME:
        raise BadDelegation(f"{claim} has no sub that is a string of 1 to {_MAX_NAME} characters")
    iss = value.get("iss")
    if iss is not None and (not isinstance(iss, str) or not iss or len(iss) > _MAX_NAME):
        raise BadDelegation(f"{claim} has an iss that is no proper string")
    return Actor(iss, sub)
