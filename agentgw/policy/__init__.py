"""What may happen: the contract between the story and whoever decides.

The values of the question and the answer live in `agentgw.core.grants`, where the rules are.
"""

from __future__ import annotations

from typing import Protocol

from agentgw.core.grants import AccessRequest, Decision, Kind

__all__ = ["AccessRequest", "Decision", "Kind", "Policy"]


class Policy(Protocol):
    """Decides from values alone, so the same question always has the same answer for one `version`."""

    @property
    def version(self) -> str:
        """The name of this state of the rules, as records keep it."""
        ...

    def decide(self, request: AccessRequest) -> Decision:
        """Judge one request. Never raises for a wrong request: what cannot be judged is refused."""
        ...
