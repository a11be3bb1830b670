"""The checks of token exchange, one function each, in the order they run (docs/exchange.md).

Each is pure and raises OAuthError. Check 1, the strict form of request and token, has run before a
SubjectToken exists at all: `parse_request` and the JWS decoder of the identity room are its parts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from agentgw.core.actor import proven_by
from agentgw.core.authorization_details import OneTool, invalid_details
from agentgw.core.claims import MIN_LIFE
from agentgw.core.delegation import DEFAULT_MAX_DEPTH, has_cycle
from agentgw.core.exchange_request import ExchangeRequest
from agentgw.core.exchange_rules import (
    ActorToken,
    Case,
    ExchangeAgent,
    ExchangeRules,
    SubjectToken,
)
from agentgw.core.possession import Presented, check_presented
from agentgw.core.principal import EVIDENCE, Hop
from agentgw.core.receipts import Misaligned, check_alignment, is_too_large
from agentgw.errors import InvalidToken, OAuthError

_PROVEN = EVIDENCE.index("client-auth")
_EXCHANGED = EVIDENCE.index("exchange")
_ASSERTED = EVIDENCE.index("act-claim")


def check_actor_is_enabled(client: str, rules: ExchangeRules) -> ExchangeAgent:
    """Before all others: the authenticated client is a registered agent that nobody switched off."""
    agent = rules.agents.get(client)
    if agent is None or agent.disabled:
        raise OAuthError("unauthorized_client", "this agent is not enabled here")
    return agent


def check_issuer_and_times(subject: SubjectToken, now: int) -> None:
    """2: the issuer may say what the token says, and enough life is left to be of any use.

    That the issuer is configured, and the token signed by it and alive, was found on the way in.
    """
    if subject.dropped_act:
        raise _invalid_grant("the subject_token carries an act that its issuer may not assert")
    if subject.exp - now < MIN_LIFE:
        raise _invalid_grant("the subject_token has expired or is about to")


def check_audience_binds_actor(
    subject: SubjectToken, actor: ExchangeAgent, rules: ExchangeRules
) -> Case:
    """3: the token itself ties the authenticated client to this delegation, in one of four ways.

    Without this, one agent's credentials could be laid over a token that another obtained (splicing).
    """
    entry = subject.entry
    if entry is not None and entry.kind == "hand-over":
        if entry.audience == actor.id and subject.may_act == actor.id:
            return "hand-over"
        raise _invalid_grant("the subject_token was handed to another agent")
    if entry is not None and entry.kind == "call":
        if subject.may_act == actor.id:
            return "call"
        raise _invalid_grant("the subject_token was made for a call to another agent's server")
    if not reach_of(subject.resources, rules):
        raise _invalid_grant("the subject_token has another audience")
    if subject.chain and subject.chain[0].id == actor.id:
        return "continue"
    if not subject.has_act and not subject.ours and _may_start(subject, actor, rules):
        return "first-hop"
    raise _invalid_grant("the subject_token was not issued to this agent, nor handed to it")


def check_markers_are_kept(case: Case, subject: SubjectToken, chain: tuple[Hop, ...]) -> None:
    """4: whoever stands in the subject_token's chain stands in the new one, in the same order.

    Leaving an actor out must never be a way to lose `act` or `may_act` (stripping). Only a first hop
    begins a chain, and only from a token that has neither.
    """
    if case == "first-hop":
        kept = not subject.has_act and subject.may_act in (None, chain[0].id)
    else:
        old = [hop.id for hop in subject.chain]
        kept = bool(old) and [hop.id for hop in chain][-len(old) :] == old
    if not kept:
        raise _invalid_grant("an agent of the subject_token's chain would be lost")


def check_may_act(
    case: Case, subject: SubjectToken, actor: ExchangeAgent, rules: ExchangeRules
) -> None:
    """5: `may_act` of any issuer binds (RFC 8693 section 4.4), so does the user's consent, and who handed
    over may still do so."""
    if subject.may_act is not None and subject.may_act != actor.id:
        raise _invalid_grant("may_act of the subject_token names another party")
    if case == "hand-over" and not _may_hand(subject.chain[0], actor.name, rules):
        raise _invalid_grant("the agent that handed this over may not hand to this one any more")
    if case in ("hand-over", "call") and not _consented(subject, actor.name):
        raise _invalid_grant("the user did not consent to this agent")
    entry = subject.entry
    if case == "call" and (entry is None or rules.behind.get(entry.audience) != actor.name):
        raise _invalid_grant("the server that was called is not this agent's any more")


def check_actor_token(token: ActorToken | None, actor: ExchangeAgent) -> None:
    """6: an actor_token, where one came, proves the authenticated client once more and nothing else."""
    if token is None:
        return
    if token.agent != actor.name:
        raise _invalid_grant("the actor_token is another agent's: the actor is the client itself")
    if token.delegated:
        raise _invalid_grant("the actor_token has an act or may_act of its own")


def check_possession(subject: SubjectToken, actor: ExchangeAgent, presented: Presented) -> None:
    """7: a bound subject_token comes with proof of the key it is bound to, and an agent that must prove
    possession of a key does so with each request."""
    try:
        check_presented(subject.binding, presented)
    except InvalidToken as error:
        raise _invalid_grant(f"the subject_token was refused: {error.reason}") from None
    demand_proof(actor, presented)


def demand_proof(actor: ExchangeAgent, presented: Presented) -> None:
    """An agent that must prove possession of a key does so with each request for a token."""
    if actor.require == "dpop" and presented.jkt is None:
        raise OAuthError("invalid_dpop_proof", f"{actor.name} must send a DPoP proof")
    if actor.require == "mtls" and presented.x5t is None:
        raise _invalid_request(f"{actor.name} must show its TLS certificate")


def check_receipts(subject: SubjectToken, rules: ExchangeRules) -> None:
    """8: the actor receipts of a token of ours are those it was issued with, one for each newest hop.

    Another issuer's receipts count for nothing here: the keys that sign them are not known.
    """
    entry = subject.entry
    if not subject.ours or entry is None or not (entry.receipts or subject.receipts):
        return
    if subject.receipts != (() if is_too_large(entry.receipts) else entry.receipts):
        raise _invalid_grant("the subject_token's actor_receipts are not those it was issued with")
    origin = entry.parent if entry.kind == "call" else entry.jti
    try:
        check_alignment(entry.receipts, entry, origin, rules.issuer)
    except Misaligned as error:
        raise _invalid_grant(f"the subject_token's actor_receipts do not fit: {error}") from None


def check_one_txn(subject: SubjectToken) -> None:
    """9: a token of ours and the ledger name one transaction; another's `txn` counts for nothing."""
    entry = subject.entry
    if subject.ours and entry is not None and (not subject.txn or subject.txn != entry.txn):
        raise _invalid_grant(
            "the subject_token belongs to another transaction than the ledger says"
        )


def check_ledger(subject: SubjectToken, rules: ExchangeRules) -> int | None:
    """10: a token of ours is one we issued to be exchanged, unchanged since and not too often used.

    The ledger remembers subject, chain, audience and scope. Of per-call tokens it knows only those that
    the agent behind a tool server may exchange, once. Returns how many tokens may come of it, None for any
    number, since others may ask at the same time.
    """
    if not subject.ours:
        return None
    entry = subject.entry
    if entry is None or entry.jti != subject.inbound.jti:
        raise _invalid_grant("the subject_token was not issued to be exchanged")
    same_chain = [hop.id for hop in entry.chain] == [hop.id for hop in subject.chain]
    same_right = entry.subject == subject.subject and subject.scopes <= entry.scopes
    same_right = same_right and entry.details == subject.details
    if not same_chain or not same_right or entry.exp < subject.exp:
        raise _invalid_grant("the subject_token differs from what was issued under its jti")
    most = rules.most_siblings(entry)
    if most is not None and subject.siblings >= most:
        raise _invalid_grant("the subject_token was exchanged as often as it may be")
    return most


class Bounds(NamedTuple):
    """What the new token is for: `heir` is the agent it is handed to, None where it opens our own
    `resources`; through a hand-over these are kept for the heir."""

    heir: ExchangeAgent | None
    scopes: frozenset[str]
    resources: frozenset[str]
    details: OneTool | None


def check_bounds(
    request: ExchangeRequest, subject: SubjectToken, actor: ExchangeAgent, rules: ExchangeRules
) -> Bounds:
    """11: target, scope and authorization_details lie within what was presented; so will the life."""
    held = held_resources(subject)
    heir = check_target(request.target, reach_of(held, rules), actor, rules)
    if heir is not None and not _consented(subject, heir.name):
        raise _no_such_target()
    scopes = check_scope(request.scopes, subject.scopes)
    opened = held if heir is not None else frozenset({request.target})
    reach = reach_of(opened, rules)
    details = check_authorization_details(request.details, subject.details, reach, rules)
    return Bounds(heir, scopes, opened, details)


def check_target(
    target: str, reach: frozenset[str], actor: ExchangeAgent, rules: ExchangeRules
) -> ExchangeAgent | None:
    """11, audience: one of our resources within reach (None), or an agent this one may hand to."""
    if target == actor.id:
        raise _invalid_request("an agent cannot hand over to itself")
    if target in reach:
        return None
    heir = rules.agent_with_id(target)
    if heir is None or heir.disabled or heir.name not in actor.may_hand_to:
        raise _no_such_target()
    return heir


def check_scope(wanted: frozenset[str] | None, held: frozenset[str]) -> frozenset[str]:
    """11, scope: the wanted scopes are among those held; all of these when none are named."""
    if wanted is None:
        return held
    if not wanted <= held:
        raise OAuthError("invalid_scope", "more scope was asked for than the subject_token has")
    return wanted


def check_authorization_details(
    wanted: OneTool | None, held: OneTool | None, reach: frozenset[str], rules: ExchangeRules
) -> OneTool | None:
    """11, authorization_details: the one tool wanted, within the one held, at a server within `reach`.

    What a token is held to stays on all that is exchanged for it, asked for or not (RFC 9396 section 6).
    """
    one = held if wanted is None else wanted
    if one is None:
        return None
    if held is not None and not held.includes(one):
        raise invalid_details("the subject_token is for another tool, or for other arguments")
    if one.location not in reach or one.location == f"{rules.issuer}/mcp":
        raise invalid_details("the location is no server here that the target includes")
    return one


def check_depth_and_cycles(chain: tuple[Hop, ...], rules: ExchangeRules) -> None:
    """12: the chain, its next agent included, has no cycle and is no longer than each agent allows."""
    if has_cycle(chain):
        raise _invalid_request("the agent already stands in the chain")
    agents = [rules.agents.get(hop.agent) for hop in chain if hop.agent is not None]
    limits = [agent.max_depth for agent in agents if agent is not None]
    if len(chain) > min(limits, default=DEFAULT_MAX_DEPTH):
        raise _invalid_request("the chain of agents would be longer than one of them allows")


def check_history_holds(chain: tuple[Hop, ...], rules: ExchangeRules) -> None:
    """13: what was granted earlier is judged again by today's rules, for every hop of the chain.

    Nothing is answered from a cache, nor carried over by a refresh: each exchange passes all checks.
    An older hop gives no right, but it may always take one away.
    """
    for hop in chain:
        agent = None if hop.agent is None else rules.agents.get(hop.agent)
        if agent is None or agent.disabled or agent.id != hop.id:
            raise _invalid_grant("an agent of the chain is not enabled here")
    if rules.steps.broken(chain) is not None:
        raise _invalid_grant("an agent of the chain may not hand to the next one any more")


def check_foreign_chain(case: Case, subject: SubjectToken, chain: tuple[Hop, ...]) -> None:
    """14: hops that another issuer asserted stay what they were: asserted, in every later token.

    Their evidence is never stronger than `act-claim`, but for the authenticated client's own; that
    is how a grant's `min_evidence` tells them from hops admitted here.
    """
    old = {"continue": subject.chain[1:], "first-hop": ()}.get(case, subject.chain)
    foreign = subject.has_act and not subject.ours
    for before, after in zip(old, chain[1:], strict=True):
        if after != before or (foreign and _strength(before) > _ASSERTED):
            raise _invalid_grant("a hop of another issuer's chain would pass for one of ours")


def grow_chain(
    case: Case, subject: SubjectToken, actor: ExchangeAgent, evidence: str = "exchange"
) -> tuple[Hop, ...]:
    """The chain of what is issued: the authenticated client in front, all others as they were."""
    match case:
        case "continue":
            current = proven_by(_proven(subject.chain[0], evidence), subject.binding)
            return (current, *subject.chain[1:])
        case "first-hop":
            return (hop_of(actor, evidence),)
        case "hand-over":
            return (hop_of(actor, evidence), *subject.chain)
        case "call":
            return (replace(hop_of(actor, evidence), behind=True), *subject.chain)


def hop_of(agent: ExchangeAgent, evidence: str = "exchange") -> Hop:
    """The hop of an agent that authenticated here."""
    return Hop(agent.id, agent.name, evidence)


def held_resources(subject: SubjectToken) -> frozenset[str]:
    """The resources the presented authority is for: through a hand-over, those of the one who made it."""
    entry = subject.entry
    return subject.resources if entry is None or entry.kind == "gateway" else entry.resources


def reach_of(held: frozenset[str], rules: ExchangeRules) -> frozenset[str]:
    """Our resources that `held` opens: `/mcp` opens every `/mcp/{server}` below it, never the reverse."""
    return frozenset(
        resource
        for resource in rules.resources
        if any(resource == own or resource.startswith(own + "/") for own in held)
    )


def _may_start(subject: SubjectToken, actor: ExchangeAgent, rules: ExchangeRules) -> bool:
    if subject.client is None or subject.client not in actor.subject_from:
        return False
    # A client that is itself an agent must hand over, or it would vanish from the chain.
    return all(rules.agent_with_id(hop.id) is None for hop in subject.chain)


def _may_hand(giver: Hop, name: str | None, rules: ExchangeRules) -> bool:
    agent = None if giver.agent is None else rules.agents.get(giver.agent)
    return agent is not None and name in agent.may_hand_to


def _proven(hop: Hop, evidence: str) -> Hop:
    """The authenticated client's own hop: what was weakly proven before has been proven now."""
    now = replace(hop, evidence=evidence)
    weak = _strength(hop) < _PROVEN or _EXCHANGED < _strength(now) > _strength(hop)
    return now if weak else hop


def _strength(hop: Hop) -> int:
    return EVIDENCE.index(hop.evidence)


def _consented(subject: SubjectToken, agent: str) -> bool:
    """Whether the user, where they were asked here, let work be passed to the agent of that name."""
    consent = None if subject.entry is None else subject.entry.consent
    return consent is None or agent in consent.hand_to


def _no_such_target() -> OAuthError:
    """One answer for unknown and for forbidden: the directory of agents is not for guessing."""
    return OAuthError("invalid_target", "this target is not available for this subject_token")


def _invalid_request(description: str) -> OAuthError:
    return OAuthError("invalid_request", description)


def _invalid_grant(description: str) -> OAuthError:
    return OAuthError("invalid_grant", description)
