"""An agent with no user behind it: the client credentials grant (RFC 6749 section 4.4).

The chain begins at the agent and says so: the agent is subject and actor in one. No user lends it any
right, so policy asks for rows that name it as a user (`agent:NAME`); ADR 16 tells why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agentgw.core.exchange import answer_of, claims_of
from agentgw.core.exchange_checks import check_actor_is_enabled, demand_proof, hop_of
from agentgw.core.exchange_request import parse_scope, parse_target
from agentgw.core.exchange_rules import Exchanged, ExchangeRules
from agentgw.core.possession import BARE, Presented, bound_to
from agentgw.core.principal import Issued, Subject
from agentgw.errors import OAuthError

API_KEY_PREFIX = "agk_"
"""Lets people, secret scanners and us know an agent's API key where it should not be."""

CLIENT_CREDENTIALS = "client_credentials"

_NOT_HERE = ("subject_token", "actor_token", "requested_token_type", "authorization_details")


@dataclass(frozen=True, slots=True)
class ClientCredentialsRequest:
    """What an agent asks for itself: `target` is one of our resources, None the union of all servers;
    `scopes` None means all that it may have."""

    target: str | None
    scopes: frozenset[str] | None


def parse_client_credentials(form: Mapping[str, str]) -> ClientCredentialsRequest:
    """The request that single-valued, non-empty form parameters make. Raises OAuthError."""
    for name in _NOT_HERE:
        if name in form:
            raise OAuthError(
                "invalid_request", f"{name} has no place in a client_credentials grant"
            )
    target = parse_target(form) if "resource" in form or "audience" in form else None
    return ClientCredentialsRequest(target, parse_scope(form.get("scope")))


def issue_for_itself(
    request: ClientCredentialsRequest,
    client: str,
    rules: ExchangeRules,
    *,
    now: int,
    jti: str,
    txn: str,
    evidence: str = "exchange",
    presented: Presented = BARE,
) -> Exchanged:
    """Decide one request of the authenticated agent named `client`; arguments as in `exchange`.

    Raises OAuthError with the code of RFC 6749 section 5.2, or invalid_target (RFC 8707).
    """
    actor = check_actor_is_enabled(client, rules)
    demand_proof(actor, presented)
    if actor.own_scopes is None:
        raise OAuthError(
            "unauthorized_client",
            "this agent acts for users only, never for itself: client_credentials in its "
            "configuration would let it",
        )
    target = f"{rules.issuer}/mcp" if request.target is None else request.target
    if target not in rules.resources:
        raise OAuthError("invalid_target", "the target is no resource of this gateway")
    scopes = actor.own_scopes if request.scopes is None else request.scopes
    if not scopes <= actor.own_scopes:
        raise OAuthError("invalid_scope", "more scope was asked for than the agent has for itself")
    issued = Issued(
        jti=jti,
        kind="gateway",
        parent=None,
        subject=Subject(rules.issuer, actor.id, actor.id, agent=actor.name),
        groups=frozenset(),
        chain=(hop_of(actor, evidence),),
        audience=target,
        scopes=scopes,
        txn=txn,
        iat=now,
        exp=now + rules.max_life,
        presenter=actor.id,
        resources=frozenset({target}),
        binding=bound_to(None, actor.require, presented),
    )
    return Exchanged(issued, claims_of(issued, rules.issuer, None), answer_of(issued))
