"""Identity assertions of other domains as grants: ID-JAG, taken at our token endpoint.

draft-ietf-oauth-identity-assertion-authz-grant-04 on RFC 7523. An issuer whose users we know says that a
client of ours, which is the agent that authenticated, may act for one of them here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agentgw.core.claims import (
    NAME_LIMIT,
    IssuerRules,
    audience_of,
    check_times,
    groups_of,
    scopes_of,
    subject_of,
)
from agentgw.core.exchange import answer_of, claims_of
from agentgw.core.exchange_checks import check_actor_is_enabled, demand_proof, hop_of, reach_of
from agentgw.core.exchange_request import TOKEN_LIMIT, parse_scope, parse_target
from agentgw.core.exchange_rules import Exchanged, ExchangeRules, SubjectToken
from agentgw.core.external_exchange import JWT_BEARER
from agentgw.core.possession import (
    BARE,
    Presented,
    binding_of,
    bound_to,
    check_presented,
)
from agentgw.core.principal import Inbound, Issued
from agentgw.core.revocation import token_key
from agentgw.errors import InvalidToken, OAuthError

TYP = "oauth-id-jag+jwt"
PROFILE = "urn:ietf:params:oauth:grant-profile:id-jag"
MAX_LIFE = 3600
"""Seconds an assertion may live at most: it is to be redeemed at once."""

__all__ = ["JWT_BEARER", "PROFILE", "IdJagRequest", "judge_assertion", "parse_id_jag", "redeem"]

_NOT_HERE = (
    "subject_token", "actor_token", "requested_token_type", "authorization_details",
    "requested_token_use",
)  # fmt: skip
_UNKNOWN = ("act", "may_act", "authorization_details")
"""Claims that limit or extend a grant in ways nobody here judges: such a grant is refused."""


@dataclass(frozen=True, slots=True)
class IdJagRequest:
    """What an agent redeems: `target` is one of our resources, None the assertion's own; `scopes` None
    means all of its."""

    assertion: str = field(repr=False)
    target: str | None
    scopes: frozenset[str] | None


def parse_id_jag(form: Mapping[str, str]) -> IdJagRequest:
    """The request that single-valued, non-empty form parameters make. Raises OAuthError."""
    for name in _NOT_HERE:
        if name in form:
            raise OAuthError("invalid_request", f"{name} has no place in a jwt-bearer grant")
    assertion = form.get("assertion")
    if assertion is None:
        raise OAuthError("invalid_request", "assertion is missing")
    if len(assertion) > TOKEN_LIMIT:
        raise OAuthError("invalid_request", f"assertion is larger than {TOKEN_LIMIT} characters")
    target = parse_target(form) if "resource" in form or "audience" in form else None
    return IdJagRequest(assertion, target, parse_scope(form.get("scope")))


def judge_assertion(
    claims: Mapping[str, Any],
    typ: str | None,
    inbound: Inbound,
    issuer: IssuerRules,
    rules: ExchangeRules,
    client: str,
    presented: Presented,
    now: float,
) -> SubjectToken:
    """What a genuine assertion of `issuer` gives the authenticated `client`. Raises InvalidToken.

    `now` is in Unix seconds. That it is used once only is not judged here.
    """
    if issuer.alias not in rules.assertions_of:
        raise InvalidToken("identity assertions of its issuer are not taken here")
    if typ != TYP:
        raise InvalidToken(f"its typ is not {TYP}")
    if audience_of(claims) != (rules.issuer,):
        raise InvalidToken("its aud is not our issuer, alone")
    if claims.get("client_id") != client:
        raise InvalidToken("its client_id is not the client that authenticated")
    if not isinstance(claims.get("jti"), str) or not 0 < len(claims["jti"]) <= NAME_LIMIT:
        raise InvalidToken(f"its jti is no string of 1 to {NAME_LIMIT} characters")
    if "iat" not in claims:
        raise InvalidToken("it has no iat")
    for name in _UNKNOWN:
        if name in claims:
            raise InvalidToken(f"it carries {name}, which is not taken here")
    exp = check_times(claims, now, max_life=MAX_LIFE, min_life=1)
    check_presented(binding_of(claims), presented)
    acr, auth_time = claims.get("acr"), claims.get("auth_time")
    return SubjectToken(
        subject=subject_of(claims, issuer, rules.issuer),
        chain=(),
        scopes=scopes_of(claims),
        resources=_resources(claims, rules),
        exp=exp,
        inbound=inbound,
        client=(issuer.alias, client),
        has_act=False,
        groups=groups_of(claims, issuer),
        acr=acr if isinstance(acr, str) and len(acr) <= NAME_LIMIT else None,
        auth_time=auth_time if type(auth_time) is int else None,
        binding=binding_of(claims),
    )


def redeem(
    request: IdJagRequest,
    subject: SubjectToken,
    client: str,
    rules: ExchangeRules,
    *,
    now: int,
    jti: str,
    txn: str,
    evidence: str = "exchange",
    presented: Presented = BARE,
) -> Exchanged:
    """Decide one redemption by the authenticated agent named `client`, at whom the chain begins.

    Arguments as in `exchange`. Raises OAuthError with the code of RFC 6749 section 5.2, or
    invalid_target (RFC 8707).
    """
    actor = check_actor_is_enabled(client, rules)
    demand_proof(actor, presented)
    target = request.target
    if target is None:
        union = f"{rules.issuer}/mcp"
        target = union if union in subject.resources else min(subject.resources)
    if target not in reach_of(subject.resources, rules):
        raise OAuthError("invalid_target", "the target is no resource that the assertion is for")
    scopes = subject.scopes if request.scopes is None else request.scopes
    if not scopes <= subject.scopes:
        raise OAuthError("invalid_scope", "more scope was asked for than the assertion has")
    issued = Issued(
        jti=jti,
        kind="gateway",
        parent=token_key(subject.inbound, rules.issuer),
        subject=subject.subject,
        groups=subject.groups,
        chain=(hop_of(actor, evidence),),
        audience=target,
        scopes=scopes,
        txn=txn,
        iat=now,
        exp=now + rules.max_life,
        presenter=actor.id,
        acr=subject.acr,
        auth_time=subject.auth_time,
        resources=frozenset({target}),
        binding=bound_to(subject.binding, actor.require, presented),
    )
    return Exchanged(issued, claims_of(issued, rules.issuer, None), answer_of(issued))


def _resources(claims: Mapping[str, Any], rules: ExchangeRules) -> frozenset[str]:
    """Our resources it names, all of them ours; `/mcp` where it names none."""
    named = claims.get("resource", f"{rules.issuer}/mcp")
    found = [named] if isinstance(named, str) else named
    if not isinstance(found, list) or not found:
        raise InvalidToken("its resource is no URL")
    if not all(isinstance(one, str) and one in rules.resources for one in found):
        raise InvalidToken("its resource is none of this gateway's")
    return frozenset(found)
