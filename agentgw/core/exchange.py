"""The rules of token exchange (RFC 8693): what may be had for which subject_token, and by whom.

The actor is always the authenticated client. Each check is a function of its own, run in one fixed
order, and raises OAuthError; nothing is issued unless all of them returned. Authority only shrinks:
scope, life and reach of what is issued lie within those of what was presented.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from agentgw.core.claims import MIN_LIFE
from agentgw.core.delegation import (
    DEFAULT_MAX_DEPTH,
    act_claim,
    has_cycle,
    may_act_claim,
)
from agentgw.core.exchange_request import ExchangeRequest
from agentgw.core.principal import EVIDENCE, Hop, Inbound, Issued, Subject
from agentgw.errors import OAuthError

HAND_OVER_LIFE = 300
"""Seconds a hand-over lives at most."""

Case = Literal["continue", "first-hop", "hand-over"]


@dataclass(frozen=True, slots=True)
class ExchangeAgent:
    """What the configuration says about one agent; `id` is `{public_url}/a2a/{name}`.

    `subject_from` holds (issuer alias, client_id) pairs whose tokens this agent may start from.
    """

    name: str
    id: str
    disabled: bool = False
    max_depth: int = DEFAULT_MAX_DEPTH
    may_hand_to: frozenset[str] = frozenset()
    subject_from: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True, slots=True)
class ExchangeRules:
    """The configuration values that decide. `resources` are our own resource URLs (`/mcp` and each
    `/mcp/{server}`), `agents` is by name, `max_life` in seconds."""

    issuer: str
    resources: frozenset[str]
    agents: Mapping[str, ExchangeAgent]
    max_life: int = 3600

    def agent_with_id(self, agent_id: str) -> ExchangeAgent | None:
        """The agent of that id, or None."""
        return next((agent for agent in self.agents.values() if agent.id == agent_id), None)


@dataclass(frozen=True, slots=True)
class SubjectToken:
    """A verified subject_token, whoever issued it; times are Unix seconds.

    `resources` are those of our own resource URLs it is for (none for a hand-over), `client` is the
    (issuer alias, client_id) it was issued to, `has_act` says whether it carried an `act`, `ours`
    whether we signed it, `entry` is then the ledger's memory of it (None: not issued to be exchanged).
    `dropped_act` tells that it carried an `act` which its issuer may not assert.
    """

    subject: Subject
    chain: tuple[Hop, ...]
    scopes: frozenset[str]
    resources: frozenset[str]
    exp: int
    inbound: Inbound
    client: tuple[str, str] | None
    has_act: bool
    groups: frozenset[str] = frozenset()
    txn: str | None = None
    may_act: str | None = None
    acr: str | None = None
    auth_time: int | None = None
    ours: bool = False
    entry: Issued | None = None
    dropped_act: bool = False


@dataclass(frozen=True, slots=True)
class Exchanged:
    """The outcome: what the ledger keeps, the claims to sign and the members of the answer but the
    token itself."""

    issued: Issued
    claims: dict[str, Any]
    answer: dict[str, Any]


def exchange(
    request: ExchangeRequest,
    subject: SubjectToken,
    client: str,
    rules: ExchangeRules,
    *,
    now: int,
    jti: str,
    txn: str,
) -> Exchanged:
    """Decide one exchange for the authenticated agent named `client`; `now` in Unix seconds.

    `jti` is the new token's id; `txn` is used where the subject_token brings none of ours.
    Raises OAuthError with the code of RFC 6749 section 5.2 or RFC 8693 section 2.2.2.
    """
    actor = check_actor_is_enabled(client, rules)
    check_subject_may_serve(subject)
    check_ledger_knows_it(subject)
    check_time_is_left(subject, now)
    case = check_subject_binds_actor(subject, actor, rules)
    check_may_act(subject, actor)
    chain = grow_chain(case, subject, actor)
    check_chain_is_enabled(chain, rules)
    held = held_resources(subject)
    heir = check_target(request.target, reach_of(held, rules), actor, rules)
    scopes = check_scope(request.scopes, subject.scopes)
    check_depth_and_cycles(chain if heir is None else (_hop(heir), *chain), rules)
    issued = Issued(
        jti=jti,
        kind="gateway" if heir is None else "hand-over",
        parent=subject.inbound.jti if subject.ours else None,
        subject=subject.subject,
        groups=subject.groups,
        chain=chain,
        audience=request.target,
        scopes=scopes,
        txn=_inherited_txn(subject) or txn,
        iat=now,
        exp=min(subject.exp, now + _life(heir, rules)),
        presenter=actor.id,
        acr=subject.acr,
        auth_time=subject.auth_time,
        resources=held if heir is not None else frozenset({request.target}),
    )
    return Exchanged(issued, claims_of(issued, rules.issuer, heir), _answer(request, issued))


def check_actor_is_enabled(client: str, rules: ExchangeRules) -> ExchangeAgent:
    """The authenticated client is a registered agent that nobody switched off."""
    agent = rules.agents.get(client)
    if agent is None or agent.disabled:
        raise OAuthError("unauthorized_client", "this agent is not enabled here")
    return agent


def check_subject_may_serve(subject: SubjectToken) -> None:
    """The token verifies for this role too: no `act` that its issuer may not assert."""
    if subject.dropped_act:
        raise _invalid_grant("the subject_token carries an act that its issuer may not assert")


def check_ledger_knows_it(subject: SubjectToken) -> None:
    """A token of ours must be one we issued to be exchanged, unchanged since: the ledger remembers
    subject, chain and audience. Per-call tokens are not there, so they are refused."""
    if not subject.ours:
        return
    entry = subject.entry
    if entry is None or entry.jti != subject.inbound.jti:
        raise _invalid_grant("the subject_token was not issued to be exchanged")
    same_chain = [hop.id for hop in entry.chain] == [hop.id for hop in subject.chain]
    if entry.subject != subject.subject or not same_chain or entry.exp < subject.exp:
        raise _invalid_grant("the subject_token differs from what was issued under its jti")


def check_time_is_left(subject: SubjectToken, now: int) -> None:
    """Enough life is left for what is issued to be of any use."""
    if subject.exp - now < MIN_LIFE:
        raise _invalid_grant("the subject_token has expired or is about to")


def check_subject_binds_actor(
    subject: SubjectToken, actor: ExchangeAgent, rules: ExchangeRules
) -> Case:
    """The token itself ties the authenticated client to this delegation, in one of three ways.

    Without this, one agent's credentials could be laid over a token that another obtained (splicing).
    """
    entry = subject.entry
    if entry is not None and entry.kind == "hand-over":
        if entry.audience == actor.id and subject.may_act == actor.id:
            return "hand-over"
        raise _invalid_grant("the subject_token was handed to another agent")
    if not reach_of(subject.resources, rules):
        raise _invalid_grant("the subject_token has another audience")
    if subject.chain and subject.chain[0].id == actor.id:
        return "continue"
    if not subject.has_act and not subject.ours and _may_start(subject, actor, rules):
        return "first-hop"
    raise _invalid_grant("the subject_token was not issued to this agent, nor handed to it")


def check_may_act(subject: SubjectToken, actor: ExchangeAgent) -> None:
    """`may_act` of any issuer binds (RFC 8693 section 4.4)."""
    if subject.may_act is not None and subject.may_act != actor.id:
        raise _invalid_grant("may_act of the subject_token names another party")


def grow_chain(case: Case, subject: SubjectToken, actor: ExchangeAgent) -> tuple[Hop, ...]:
    """The chain of what is issued: markers are always carried on, never left out (stripping)."""
    match case:
        case "continue":
            return (_proven(subject.chain[0]), *subject.chain[1:])
        case "first-hop":
            return (_hop(actor),)
        case "hand-over":
            return (_hop(actor), *subject.chain)


def check_chain_is_enabled(chain: tuple[Hop, ...], rules: ExchangeRules) -> None:
    """Every agent of the chain is registered and enabled: an older hop may always take away."""
    for hop in chain:
        agent = None if hop.agent is None else rules.agents.get(hop.agent)
        if agent is None or agent.disabled or agent.id != hop.id:
            raise _invalid_grant("an agent of the chain is not enabled here")


def held_resources(subject: SubjectToken) -> frozenset[str]:
    """The resources the presented authority is for: through a hand-over, those of the one who made it."""
    entry = subject.entry
    return subject.resources if entry is None or entry.kind != "hand-over" else entry.resources


def reach_of(held: frozenset[str], rules: ExchangeRules) -> frozenset[str]:
    """Our resources that `held` opens: `/mcp` opens every `/mcp/{server}` below it, never the reverse."""
    return frozenset(
        resource
        for resource in rules.resources
        if any(resource == own or resource.startswith(own + "/") for own in held)
    )


def check_target(
    target: str, reach: frozenset[str], actor: ExchangeAgent, rules: ExchangeRules
) -> ExchangeAgent | None:
    """The target is one of our resources within reach (None), or an agent this one may hand to."""
    if target == actor.id:
        raise _invalid_request("an agent cannot hand over to itself")
    if target in reach:
        return None
    heir = rules.agent_with_id(target)
    if heir is None or heir.disabled or heir.name not in actor.may_hand_to:
        # One answer for unknown and for forbidden: the directory of agents is not for guessing.
        raise OAuthError("invalid_target", "this target is not available for this subject_token")
    return heir


def check_scope(wanted: frozenset[str] | None, held: frozenset[str]) -> frozenset[str]:
    """The wanted scopes are among those held; all of these when none are named."""
    if wanted is None:
        return held
    if not wanted <= held:
        raise OAuthError("invalid_scope", "more scope was asked for than the subject_token has")
    return wanted


def check_depth_and_cycles(chain: tuple[Hop, ...], rules: ExchangeRules) -> None:
    """The chain, its next agent included, has no cycle and is no longer than each agent allows."""
    if has_cycle(chain):
        raise _invalid_request("the agent already stands in the chain")
    agents = [rules.agents[hop.agent] for hop in chain if hop.agent is not None]
    if len(chain) > min((agent.max_depth for agent in agents), default=DEFAULT_MAX_DEPTH):
        raise _invalid_request("the chain of agents would be longer than one of them allows")


def claims_of(issued: Issued, issuer: str, heir: ExchangeAgent | None) -> dict[str, Any]:
    """The claims of an issued token (RFC 9068 section 2.2), in the order they are published."""
    claims: dict[str, Any] = {
        "iss": issuer,
        "client_id": issuer,
        "aud": issued.audience,
        "sub": issued.subject.name,
        "act": act_claim(issued.chain, issuer),
    }
    if heir is not None:
        claims["may_act"] = may_act_claim(heir.id, issuer)
    if issued.scopes:
        claims["scope"] = " ".join(sorted(issued.scopes))
    claims["iat"] = claims["nbf"] = issued.iat
    claims["exp"] = issued.exp
    claims["jti"] = issued.jti
    claims["txn"] = issued.txn
    if issued.acr is not None:
        claims["acr"] = issued.acr
    if issued.auth_time is not None:
        claims["auth_time"] = issued.auth_time
    return claims


def _answer(request: ExchangeRequest, issued: Issued) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "issued_token_type": request.issued_token_type,
        "token_type": "Bearer",
        "expires_in": issued.exp - issued.iat,
    }
    if issued.scopes:
        answer["scope"] = " ".join(sorted(issued.scopes))
    return answer


def _may_start(subject: SubjectToken, actor: ExchangeAgent, rules: ExchangeRules) -> bool:
    if subject.client is None or subject.client not in actor.subject_from:
        return False
    # A client that is itself an agent must hand over, or it would vanish from the chain.
    return all(rules.agent_with_id(hop.id) is None for hop in subject.chain)


def _proven(hop: Hop) -> Hop:
    """The authenticated client's own hop: what was weakly proven before has been proven now."""
    weak = EVIDENCE.index(hop.evidence) < EVIDENCE.index("client-auth")
    return Hop(hop.id, hop.agent, "exchange") if weak else hop


def _hop(agent: ExchangeAgent) -> Hop:
    return Hop(agent.id, agent.name, "exchange")


def _inherited_txn(subject: SubjectToken) -> str | None:
    return subject.txn if subject.ours else None


def _life(heir: ExchangeAgent | None, rules: ExchangeRules) -> int:
    return rules.max_life if heir is None else min(HAND_OVER_LIFE, rules.max_life)


def _invalid_request(description: str) -> OAuthError:
    return OAuthError("invalid_request", description)


def _invalid_grant(description: str) -> OAuthError:
    return OAuthError("invalid_grant", description)
