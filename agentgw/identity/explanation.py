"""What became of each check of one token, and what the token says of itself."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from agentgw.core.actor import AgentIndex
from agentgw.core.principal import Hop
from agentgw.errors import InvalidToken

Kind = Literal["unreadable", "unknown", "foreign", "gateway", "hand-over", "per-call"]
"""What a token is: of a configured issuer (foreign), of no issuer we know, or one of our own three."""

DEPTH_LIMIT = 24


class KeysUnreachable(InvalidToken):
    """The keys could not be had, so nothing is known of the signature."""


class KeysNotFetched(InvalidToken):
    """The keys were not asked for, as the developer wanted."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check: `ok` is None where it could not be made; `detail` says why, or what was found."""

    name: str
    ok: bool | None
    detail: str


@dataclass(slots=True)
class Explanation:
    """One token explained. `issuer` is the alias, or `ours`; `chain` runs from the current actor
    outwards and is only what the token says where `proven` is false; `use` says what it is good for.
    `unreachable`: keys could not be had."""

    kind: Kind = "unreadable"
    issuer: str | None = None
    header: Mapping[str, Any] = field(default_factory=dict)
    claims: Mapping[str, Any] = field(default_factory=dict)
    subject: str | None = None
    chain: tuple[Hop, ...] = ()
    proven: bool = False
    unreachable: bool = False
    use: str = "refused everywhere here"
    checks: list[Check] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every check was made and passed."""
        return all(check.ok for check in self.checks)

    @property
    def failed(self) -> bool:
        """Whether some check failed."""
        return any(check.ok is False for check in self.checks)

    def attempt(self, name: str, run: Callable[[], Any], told: Callable[[Any], str] = str) -> Any:
        """Make one check; its value, or None where it failed."""
        try:
            value = run()
        except InvalidToken as error:
            self.checks.append(Check(name, False, error.reason))
            return None
        self.checks.append(Check(name, True, told(value)))
        return value

    def skip(self, why: str, *names: str) -> None:
        """Note checks that could not be made."""
        self.checks += [Check(name, None, f"not checked: {why}") for name in names]


def read_loosely(token: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Header and claims for the eye, where there are any: not one rule is kept here."""
    parts = [*token.split("."), "", ""]
    return _object(parts[0]), _object(parts[1])


def told_chain(claims: Mapping[str, Any], index: AgentIndex) -> tuple[Hop, ...]:
    """What `act` says, as far as it can be read; the evidence of nothing is `-`."""
    hops: list[Hop] = []
    act = claims.get("act")
    while isinstance(act, dict) and len(hops) < DEPTH_LIMIT:
        id_ = str(act.get("sub"))
        agent = index.by_id.get(id_)
        hops.append(Hop(id_, None if agent is None or agent.disabled else agent.name, "-"))
        act = act.get("act")
    return tuple(hops)


def _object(part: str) -> Mapping[str, Any]:
    try:
        value = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
