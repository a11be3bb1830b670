"""Which agents act in a token: the chain, how each hop is proven, and who may act at all.

Pure rules of RFC 8693 sections 4.1 (`act`) and 4.4 (`may_act`) as narrowed here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from agentgw.core.claims import NAME_LIMIT, IssuerRules
from agentgw.core.delegation import DEFAULT_MAX_DEPTH
from agentgw.core.possession import Binding
from agentgw.core.principal import EVIDENCE, Hop
from agentgw.errors import InvalidProof, InvalidToken

_CLIENT_CLAIMS = ("client_id", "azp", "appid", "cid")
_CLIENT_AUTH_CLAIMS = ("azpacr", "appidacr")
_PROVEN = EVIDENCE.index("client-auth")


@dataclass(frozen=True, slots=True)
class ClientRule:
    """A client of an issuer (by alias) that is an agent; `confidential`: the operator vouches that it
    authenticates with a secret or key of its own."""

    issuer: str
    client_id: str
    confidential: bool = False


@dataclass(frozen=True, slots=True)
class AgentRules:
    """One configured agent: its `id` is `{public_url}/a2a/{name}`; `max_depth` counts `act` objects.

    `require` is the proof of possession (`dpop` or `mtls`) its tokens must demand, None for any or none.
    """

    name: str
    id: str
    clients: tuple[ClientRule, ...] = ()
    disabled: bool = False
    max_depth: int = DEFAULT_MAX_DEPTH
    require: str | None = None


@dataclass(frozen=True, slots=True)
class AgentIndex:
    """The configured agents by id and by client, with the issuers' aliases by URL."""

    public_url: str
    by_id: Mapping[str, AgentRules]
    by_client: Mapping[tuple[str, str], tuple[AgentRules, ClientRule]]
    aliases: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Actors:
    """Who acts: `chain` from the current actor outwards to the first, never empty.

    `presenter` is the id of the client the token was issued to, `client_id` its raw name (None where
    the token names none). `dropped_act` tells that an `act` nobody may assert was not believed.
    """

    chain: tuple[Hop, ...]
    presenter: str
    client_id: str | None
    dropped_act: bool = False
    notes: tuple[str, ...] = ()


def index_agents(
    agents: Iterable[AgentRules], issuers: Iterable[IssuerRules], public_url: str
) -> AgentIndex:
    """Index the configuration once. Raises ValueError where two agents claim one name, id or client."""
    by_id: dict[str, AgentRules] = {}
    by_client: dict[tuple[str, str], tuple[AgentRules, ClientRule]] = {}
    for agent in agents:
        if agent.id in by_id:
            raise ValueError(f"two agents are called {agent.name}")
        by_id[agent.id] = agent
        for client in agent.clients:
            key = (client.issuer, client.client_id)
            if key in by_client:
                raise ValueError(f"{by_client[key][0].name} and {agent.name} share a client")
            by_client[key] = (agent, client)
    return AgentIndex(public_url, by_id, by_client, {rule.issuer: rule.alias for rule in issuers})


def determine_actors(claims: Mapping[str, Any], rules: IssuerRules, index: AgentIndex) -> Actors:
    """Find the chain of an identity provider's token (docs/architecture.md, Tokens).

    The outermost `act` where the issuer may assert one, else the client. An `act` that nobody may
    assert is dropped only where the client is proven and is an agent of ours. Raises InvalidToken.
    """
    client_id = client_of(claims)
    client = None if client_id is None else _client_hop(client_id, claims, rules, index)
    if "act" in claims and rules.may_assert_act:
        chain = _asserted_chain(claims["act"], rules, index)
        presenter = client.id if client else chain[0].id
        return Actors(chain, presenter, client_id, notes=_disabled(chain, index))
    if client is None:
        raise InvalidToken("the token names no client (client_id or azp), so no agent is known")
    notes = _disabled((client,), index)
    if "act" not in claims:
        return Actors((client,), client.id, client_id, notes=notes)
    if client.id not in index.by_id or EVIDENCE.index(client.evidence) < _PROVEN:
        raise InvalidToken(
            "the token carries an act its issuer may not assert, and its client is not proven: "
            "mark the issuer may_assert_act or the agent's client confidential"
        )
    return Actors(
        (client,), client.id, client_id, True, (*notes, "act dropped: its issuer may not assert it")
    )


def check_evidence(chain: tuple[Hop, ...], rules: IssuerRules) -> None:
    """Refuse a registered agent known by a bare client name only, unless the issuer accepts that.

    An unregistered client passes: it is nobody here, and policy answers it. Raises InvalidToken.
    """
    for hop in chain:
        if hop.evidence != "client-claim" or hop.agent is None:
            continue
        if "client-claim" not in rules.accept_evidence:
            raise InvalidToken(
                f"nothing proves that the token's client is {hop.agent}: mark that client "
                "confidential, or let the issuer accept_evidence client-claim"
            )


def may_act_of(claims: Mapping[str, Any], alias: str, issuer: str, index: AgentIndex) -> str | None:
    """The id of the one actor the token allows (`may_act`, RFC 8693 section 4.4), None without one.

    `alias` and `issuer` are those of the token, the default for a `may_act` without `iss`.
    """
    if "may_act" not in claims:
        return None
    return _named_actor(claims["may_act"], "may_act", alias, issuer, index)[0]


def check_may_act(may_act: str | None, chain: tuple[Hop, ...]) -> None:
    """Refuse where `may_act` names another than the current actor. Raises InvalidToken."""
    if may_act is not None and may_act != chain[0].id:
        raise InvalidToken("the token's may_act names another agent than the one acting")


def check_required(hop: Hop, binding: Binding | None, index: AgentIndex) -> None:
    """Refuse a token of an agent that must prove possession (`require`) and is bound to nothing it could
    prove. Raises InvalidToken; InvalidProof where DPoP is what is missing."""
    agent = index.by_id.get(hop.id)
    require = None if agent is None else agent.require
    if require == "dpop" and (binding is None or binding.jkt is None):
        raise InvalidProof(
            f"{hop.agent} must use tokens bound to a DPoP key: get one at /oauth/token with a proof",
            "invalid_token",
        )
    if require == "mtls" and (binding is None or binding.x5t is None):
        raise InvalidToken(
            f"{hop.agent} must use tokens bound to its TLS certificate: get one at /oauth/token over mTLS"
        )


def proven_by(hop: Hop, binding: Binding | None) -> Hop:
    """The current agent's hop once the token's binding was proven.

    A key proves that nobody stole the token, not who first got it: evidence that the client
    authenticated grows to `dpop` or `mtls`, weaker evidence stays what it is.
    """
    if binding is None or EVIDENCE.index(hop.evidence) < _PROVEN:
        return hop
    evidence = "mtls" if binding.x5t is not None else "dpop"
    stronger = EVIDENCE.index(evidence) > EVIDENCE.index(hop.evidence)
    return replace(hop, evidence=evidence) if stronger else hop


def client_of(claims: Mapping[str, Any]) -> str | None:
    """The client a token was issued to: `client_id` (RFC 9068), `azp`, `appid` and `cid` must agree."""
    found = [claims[name] for name in _CLIENT_CLAIMS if name in claims]
    if not found:
        return None
    if any(value != found[0] for value in found):
        raise InvalidToken("the token names two different clients")
    return _short(found[0], "client")


def act_ids(claims: Mapping[str, Any], public_url: str, max_depth: int) -> tuple[str, ...]:
    """The ids in the `act` of a token of our own, outermost first; each `iss` must be ours."""
    ids: list[str] = []
    act = claims.get("act")
    while act is not None:
        if not isinstance(act, dict) or act.get("iss") != public_url or len(ids) == max_depth:
            raise InvalidToken("the token's act is not one this gateway writes")
        ids.append(_short(act.get("sub"), "act"))
        act = act.get("act")
    return tuple(ids)


def refresh_hops(chain: tuple[Hop, ...], index: AgentIndex) -> tuple[Hop, ...]:
    """The hops as today's configuration sees them: agents since removed or disabled become nobody."""
    return tuple(replace(hop, agent=_agent_name(hop.id, index)) for hop in chain)


def _client_hop(
    client_id: str, claims: Mapping[str, Any], rules: IssuerRules, index: AgentIndex
) -> Hop:
    entry = index.by_client.get((rules.alias, client_id))
    proven = (entry is not None and entry[1].confidential) or (
        # Entra ID: 1 is a client secret, 2 a certificate. Believed only where the operator says so.
        "client-auth" in rules.accept_evidence
        and any(claims.get(name) in ("1", "2") for name in _CLIENT_AUTH_CLAIMS)
    )
    evidence = "client-auth" if proven else "client-claim"
    if entry is None:
        return Hop(f"client:{rules.alias}|{client_id}", None, evidence)
    return Hop(entry[0].id, _agent_name(entry[0].id, index), evidence)


def _asserted_chain(act: Any, rules: IssuerRules, index: AgentIndex) -> tuple[Hop, ...]:
    hops: list[Hop] = []
    limits: list[int] = []
    while act is not None:
        id_, agent = _named_actor(act, "act", rules.alias, rules.issuer, index)
        if any(hop.id == id_ for hop in hops):
            raise InvalidToken("the token's act names one agent twice")
        hops.append(Hop(id_, _agent_name(id_, index), "act-claim"))
        limits.append(DEFAULT_MAX_DEPTH if agent is None else agent.max_depth)
        act = act.get("act")
    if not hops or len(hops) > min(limits):
        raise InvalidToken("the token's act is empty or nested deeper than its agents allow")
    return tuple(hops)


def _named_actor(
    value: Any, claim: str, alias: str, issuer: str, index: AgentIndex
) -> tuple[str, AgentRules | None]:
    """The agent an `act` or `may_act` names: by our id, or by client of its `iss` (default: the token's)."""
    if not isinstance(value, dict):
        raise InvalidToken(f"the token's {claim} is not an object")
    sub, iss = _short(value.get("sub"), claim), value.get("iss", issuer)
    if not isinstance(iss, str):
        raise InvalidToken(f"the token's {claim} has an iss that is not a string")
    if sub in index.by_id and iss in (issuer, index.public_url):
        return sub, index.by_id[sub]
    space = alias if iss == issuer else index.aliases.get(iss, iss)
    entry = index.by_client.get((space, sub))
    if entry is not None:
        return entry[0].id, entry[0]
    return f"client:{space}|{_short(sub, claim)}", None


def _agent_name(id_: str, index: AgentIndex) -> str | None:
    agent = index.by_id.get(id_)
    return None if agent is None or agent.disabled else agent.name


def _disabled(chain: tuple[Hop, ...], index: AgentIndex) -> tuple[str, ...]:
    return tuple(
        f"agent {index.by_id[hop.id].name} is disabled"
        for hop in chain
        if hop.id in index.by_id and index.by_id[hop.id].disabled
    )


def _short(value: Any, claim: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= NAME_LIMIT or not value.isprintable():
        raise InvalidToken(f"the token's {claim} is not named by 1 to {NAME_LIMIT} characters")
    return value
