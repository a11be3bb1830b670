"""What the story leans on, swapped whole on a reload."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from agentgw.core.delegation import Steps
from agentgw.core.principal import Caller, Issued
from agentgw.core.revocation import Revoked
from agentgw.gateway.incoming import Server
from agentgw.gateway.journal import Journal
from agentgw.gateway.streams import OpenStreams
from agentgw.policy import Policy


class Minter(Protocol):
    """Signs the claims of a token."""

    def mint(
        self, claims: Mapping[str, Any], typ: str = "at+jwt", alg: str = "ES256"
    ) -> Awaitable[bytes]:
        """Have `claims` signed from now on; awaiting it gives the compact JWS, or raises Unavailable
        where it cannot be signed."""
        ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the story leans on. `clock` is Unix seconds, `random` gives so many random bytes.

    `remember` writes a token that may be exchanged into the ledger; it raises Unavailable, or OAuthError
    where the caller's own token is revoked.
    `docs` is the page our error codes are explained on; `enabled_agents` and `refusals_as_results` hold
    agent names, `steps` says which agent may come after which.
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
    steps: Steps
    refusals_as_results: frozenset[str]
    max_answer: int
    revoked: Revoked
    remember: Callable[[Issued], Awaitable[None]]

    def knows_agents_of(self, caller: Caller) -> bool:
        """Whether every agent of the chain is registered and enabled."""
        enabled = self.enabled_agents
        for hop in caller.chain:
            if hop.agent not in enabled:
                return False
        return bool(caller.chain)

    def lost(self, caller: Caller) -> str | None:
        """Which right of this caller was taken back, in words: a token, a user, an agent, or a step of
        the chain that its agents may not take any more."""
        if (what := self.revoked.why(caller)) is not None or len(caller.chain) < 2:
            return what
        step = self.steps.broken(caller.chain)
        if step is None:
            return None
        later, earlier = step
        if later.behind:
            return f"the place of {later.agent} behind a tool server"
        return f"the hand-over from {earlier.agent} to {later.agent}"

    def hears(self, caller: Caller) -> bool:
        """Whether a server may be asked anything for this caller: agents known, nothing taken back."""
        return self.knows_agents_of(caller) and self.lost(caller) is None
