"""What a user may let an agent do, and what they chose of it at the consent page."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from agentgw.core.consent import Consent
from agentgw.core.exchange_rules import ExchangeAgent

TOOL, SERVER, AGENT = "tool:", "server:", "agent:"
"""What the names of the page's checkboxes begin with; each is its own field."""

HOUR, DAY = 3600, 86_400
_LIVES = (HOUR, 8 * HOUR, DAY, 7 * DAY, 30 * DAY, 90 * DAY)
USUAL_LIFE = 7 * DAY


@dataclass(frozen=True, slots=True)
class OfferedTool:
    """A tool that policy would allow. `about` is its server's own words, `scopes` are what a token needs."""

    name: str
    about: str
    scopes: frozenset[str]


@dataclass(frozen=True, slots=True)
class OfferedServer:
    """A server of which policy would allow something, and the tools of it that it would allow."""

    name: str
    tools: tuple[OfferedTool, ...]


@dataclass(frozen=True, slots=True)
class Offer:
    """Everything an agent could be let do for a user, by today's rules.

    `hand_to` are the agents that work may reach, `silent` servers that cannot be asked what they have.
    """

    servers: tuple[OfferedServer, ...]
    hand_to: tuple[str, ...]
    silent: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """What the user chose: `scopes` are what the tools among it need, `life` is in seconds."""

    consent: Consent
    scopes: frozenset[str]
    life: int


def choose(form: Mapping[str, str], offer: Offer, longest: int) -> Choice | None:
    """What a posted page says, which is nothing beyond the offer; None where it says nothing sensible.

    `longest` is how long a consent may last, in seconds.
    """
    life = form.get("life", "")
    if life not in [str(each) for each in lives(longest)]:
        return None
    tools = {
        f"{server.name}/{tool.name}": tool.scopes
        for server in offer.servers
        for tool in server.tools
        if f"{TOOL}{server.name}/{tool.name}" in form
    }
    servers = {each.name for each in offer.servers if SERVER + each.name in form}
    hand_to = {name for name in offer.hand_to if AGENT + name in form}
    consent = Consent(frozenset(tools), frozenset(servers), frozenset(hand_to))
    return Choice(consent, frozenset().union(*tools.values()), int(life))


def lives(longest: int) -> tuple[int, ...]:
    """How long a consent may be given for, in seconds, the shortest first."""
    return (*(life for life in _LIVES if life < longest), longest)


def usual_life(longest: int, before: int | None) -> int:
    """The one to propose: what the user chose `before`, else a week or what there is."""
    wanted = USUAL_LIFE if before is None else before
    return max((life for life in lives(longest) if life <= wanted), default=lives(longest)[0])


def within_reach(agent: str, agents: Mapping[str, ExchangeAgent]) -> tuple[str, ...]:
    """The agents that work of `agent` may come to, over however many hand-overs, in order of name."""
    found: set[str] = set()
    ahead = [agent]
    while ahead:
        giver = agents.get(ahead.pop())
        heirs = frozenset() if giver is None else giver.may_hand_to
        new = {name for name in heirs - found if name in agents and not agents[name].disabled}
        found |= new
        ahead += new
    return tuple(sorted(found - {agent}))


def scopes_within(asked: frozenset[str] | None, known: Collection[str]) -> frozenset[str]:
    """The scopes a login may have: those asked for that mean anything here, all where none does.

    An authorization server may give other scopes than were asked for (RFC 6749 section 3.3); clients that
    ask for `openid` or `offline_access` only are asking for a login.
    """
    every = frozenset(known)
    return every if asked is None or not asked & every else asked & every
