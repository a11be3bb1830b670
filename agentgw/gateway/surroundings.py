"""What the story leans on, swapped whole on a reload."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from agentgw.gateway.incoming import Server
from agentgw.gateway.journal import Journal
from agentgw.gateway.streams import OpenStreams
from agentgw.policy import Policy


class Minter(Protocol):
    """Signs the claims of a token."""

    def sign(self, claims: Mapping[str, Any], typ: str = "at+jwt") -> bytes:
        """The compact JWS of `claims`."""
        ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the story leans on. `clock` is Unix seconds, `random` gives so many random bytes.

    `docs` is the page our error codes are explained on; `enabled_agents` and `refusals_as_results` hold
    agent names.
    """

    issuer: str
    docs: str
    servers: Mapping[str, Server]
    policy: Policy
    minter: Minter
    journal: Journal
    streams: OpenStreams
    clock: Callable[[], float]
    random: Callable[[int], bytes]
    enabled_agents: frozenset[str]
    refusals_as_results: frozenset[str]
    max_answer: int
