"""What a user let an agent do at our consent page: a limit that all that comes of it keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BEYOND_CONSENT = "consent"
"""The `rule` of what is refused because the user did not consent to it."""


@dataclass(frozen=True, slots=True)
class Consent:
    """What one user consented to for one agent, and so for whomever that agent hands work to.

    `tools` holds `server/tool`, under the tool's original name. `servers` are those whose resources,
    prompts and other methods are included. `hand_to` names the agents that may stand in the chain after
    the first, however far down. It gives no right: policy decides within it.
    """

    tools: frozenset[str]
    servers: frozenset[str]
    hand_to: frozenset[str]

    def admits(self, server: str, kind: str, name: str) -> bool:
        """Whether `name` of a server, of the `kind` a grant would call it, lies within."""
        if kind == "tools":
            return f"{server}/{name}" in self.tools
        return server in self.servers

    def reaches(self, server: str) -> bool:
        """Whether anything of a server lies within."""
        return server in self.servers or any(tool.startswith(f"{server}/") for tool in self.tools)

    def shown(self) -> dict[str, list[str]]:
        """It as JSON, in a stable order."""
        return {
            "tools": sorted(self.tools),
            "servers": sorted(self.servers),
            "hand_to": sorted(self.hand_to),
        }


def read_consent(shown: Mapping[str, Any]) -> Consent:
    """What `shown` wrote. Raises KeyError or TypeError where that was something else."""
    return Consent(*(frozenset(shown[name]) for name in ("tools", "servers", "hand_to")))
