"""The rules of token exchange (RFC 8693): what may be had for which subject_token, and by whom.

The actor is always the authenticated client. Each check is a function of its own, run in one fixed
order, and raises OAuthError; nothing is issued unless all of them returned. Authority only shrinks:
scope, life and reach of what is issued lie within those of what was presented.
"""

from __future__ import annotations

from typing import Any

from agentgw.core.authorization_details import details_claim
from agentgw.core.delegation import act_claim, may_act_claim
from agentgw.core.exchange_checks import (
    check_actor_is_enabled,
    check_actor_token,
    check_audience_binds_actor,
    check_bounds,
    check_depth_and_cycles,
    check_foreign_chain,
    check_history_holds,
    check_issuer_and_times,
    check_ledger,
    check_markers_are_kept,
    check_may_act,
    check_one_txn,
    check_possession,
    check_receipts,
    grow_chain,
    hop_of,
)
from agentgw.core.exchange_request import ExchangeRequest
from agentgw.core.exchange_rules import (
    ActorToken,
    Case,
    ExchangeAgent,
    Exchanged,
    ExchangeRules,
    SubjectToken,
)
from agentgw.core.possession import BARE, Presented, bound_to, cnf_claim, token_type
from agentgw.core.principal import Issued
from agentgw.core.receipts import receipt_claims
from agentgw.core.revocation import token_key

__all__ = ["ActorToken", "ExchangeAgent", "ExchangeRules", "Exchanged", "SubjectToken", "exchange"]

HAND_OVER_LIFE = 300
"""Seconds a hand-over lives at most."""


def exchange(
    request: ExchangeRequest,
    subject: SubjectToken,
    client: str,
    rules: ExchangeRules,
    *,
    now: int,
    jti: str,
    txn: str,
    actor_token: ActorToken | None = None,
    presented: Presented = BARE,
    evidence: str = "exchange",
) -> Exchanged:
    """Decide one exchange for the authenticated agent named `client`; `now` in Unix seconds.

    `jti` is the new token's id; `txn` is used where the subject_token brings none of ours.
    `presented` is what came along with the subject_token as proof of possession, to which the new
    token is bound; `evidence` (one of EVIDENCE) is that of the way in which the client authenticated.
    Raises OAuthError with the code of RFC 6749 section 5.2 or RFC 8693 section 2.2.2.
    """
    actor = check_actor_is_enabled(client, rules)
    check_issuer_and_times(subject, now)  # 2; 1 was passed in reading request and token
    case = check_audience_binds_actor(subject, actor, rules)  # 3
    chain = grow_chain(case, subject, actor, evidence)
    check_markers_are_kept(case, subject, chain)  # 4
    check_may_act(case, subject, actor, rules)  # 5
    check_actor_token(actor_token, actor)  # 6
    check_possession(subject, actor, presented)  # 7
    check_receipts(subject, rules)  # 8
    check_one_txn(subject)  # 9
    siblings = check_ledger(subject, rules)  # 10
    bounds = check_bounds(request, subject, actor, rules)  # 11
    heir = bounds.heir
    check_depth_and_cycles(chain if heir is None else (hop_of(heir), *chain), rules)  # 12
    check_history_holds(chain, rules)  # 13
    check_foreign_chain(case, subject, chain)  # 14
    issued = Issued(
        jti=jti,
        kind="gateway" if heir is None else "hand-over",
        parent=token_key(subject.inbound, rules.issuer),
        subject=subject.subject,
        groups=subject.groups,
        chain=chain,
        audience=request.target,
        scopes=bounds.scopes,
        txn=(subject.txn if subject.ours else None) or txn,
        iat=now,
        exp=min(now + _life(heir, rules), *_ends(subject, actor_token)),
        presenter=actor.id,
        acr=subject.acr,
        auth_time=subject.auth_time,
        binding=None if heir else bound_to(subject.binding, actor.require, presented),
        resources=bounds.resources,
        details=bounds.details,
        receipts=_older_receipts(case, subject, rules),
        consent=None if subject.entry is None else subject.entry.consent,
    )
    receipt = receipt_claims(issued, issued.receipts, rules.issuer) if rules.receipts else None
    answer = {"issued_token_type": request.issued_token_type, **answer_of(issued)}
    return Exchanged(issued, claims_of(issued, rules.issuer, heir), answer, receipt, siblings)


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
    if issued.binding is not None:
        claims["cnf"] = cnf_claim(issued.binding)
    if issued.acr is not None:
        claims["acr"] = issued.acr
    if issued.auth_time is not None:
        claims["auth_time"] = issued.auth_time
    if issued.details is not None:
        claims["authorization_details"] = details_claim(issued.details)
    return claims


def answer_of(issued: Issued) -> dict[str, Any]:
    """The members of a token response but the token itself (RFC 6749 section 5.1, RFC 9396 section 7)."""
    answer: dict[str, Any] = {
        "token_type": token_type(issued.binding),
        "expires_in": issued.exp - issued.iat,
    }
    if issued.scopes:
        answer["scope"] = " ".join(sorted(issued.scopes))
    if issued.details is not None:
        answer["authorization_details"] = details_claim(issued.details)
    return answer


def _older_receipts(case: Case, subject: SubjectToken, rules: ExchangeRules) -> tuple[str, ...]:
    """The receipts of the hops before the current one, which gets a new one with each token."""
    entry = subject.entry
    if not rules.receipts or entry is None:
        return ()
    return entry.receipts[1:] if case == "continue" else entry.receipts


def _ends(subject: SubjectToken, actor_token: ActorToken | None) -> tuple[int, ...]:
    return (subject.exp,) if actor_token is None else (subject.exp, actor_token.exp)


def _life(heir: ExchangeAgent | None, rules: ExchangeRules) -> int:
    return rules.max_life if heir is None else min(HAND_OVER_LIFE, rules.max_life)
