"""What to ask of an authorization server that is not ours, so that a tool server takes its tokens.

RFC 8693 token exchange, the JWT bearer grant (RFC 7523) as it is or with Entra's `on_behalf_of`, and two
steps over two servers: an identity assertion (ID-JAG) or any JWT grant (identity chaining), made at one
and redeemed at the other. What comes back is judged in core/external_answer.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from agentgw.core.delegation import act_claim
from agentgw.core.exchange_request import ACCESS_TOKEN, GRANT_TYPE
from agentgw.core.principal import Caller
from agentgw.core.record import Assurance
from agentgw.errors import UpstreamFailed

JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
JWT = "urn:ietf:params:oauth:token-type:jwt"
ID_JAG = "urn:ietf:params:oauth:token-type:id-jag"

Grant = Literal["token-exchange", "on-behalf-of", "jwt-bearer", "id-jag", "identity-chaining"]
TWO_STEPS = ("id-jag", "identity-chaining")

GRANT_LIFE = 60
"""Seconds a grant of our own lives at most."""

_REQUESTED = {"id-jag": ID_JAG, "identity-chaining": JWT}


@dataclass(frozen=True, slots=True)
class ExternalRules:
    """How the credentials of one tool server are had, and what they must say.

    `issuer` made the credential, and we are its `client_id`; `name` is what the configuration calls it.
    `first_issuer` is asked first, and is the same unless the grant has two steps. `subject` is what stands
    for the user: the `caller`'s own token, or a grant that the `gateway` signs. `audience` is the `aud`
    of credentials; `asked_audience` and `resource` are sent along. `scope` is asked for where a tool has
    none of its own; `allowed_scopes` may come back besides. `subject_claim` is how users are told apart,
    `users` the alias of the issuer whose subjects the first server's are, if they are. `agents` maps ids
    of agents to their clients there. `act_optional` permits an answer without `act` where one was sent.
    A credential may outlive the caller's token by `outlive` seconds. `public_url` is our issuer.
    """

    server: str
    name: str
    issuer: str
    client_id: str
    first_issuer: str
    grant: Grant
    subject: Literal["caller", "gateway"]
    audience: str
    public_url: str
    asked_audience: str | None = None
    resource: str | None = None
    scope: str | None = None
    allowed_scopes: frozenset[str] = frozenset()
    subject_token_type: str = ACCESS_TOKEN
    subject_claim: str = "sub"
    users: str | None = None
    agents: Mapping[str, frozenset[str]] = field(default_factory=lambda: MappingProxyType({}))
    act_optional: bool = False
    outlive: int = 0
    token_limit: int = 16 * 1024


@dataclass(frozen=True, slots=True)
class Expected:
    """What an answer must say. `subjects` are the names the user may have there, None where it is us.

    `sent` are the agents in the `act` of what was shown to the server, `chain` the names that each hop
    of the caller's may have there; both from the current actor outwards. `latest` is in Unix seconds.
    """

    subjects: frozenset[str] | None
    sent: tuple[str, ...]
    chain: tuple[frozenset[str], ...]
    scopes: frozenset[str]
    latest: float


@dataclass(frozen=True, slots=True)
class Credential:
    """What goes to a tool server in place of a token of ours, as it was checked.

    `facts` is what records keep of it. `until` (Unix seconds) is when it may no longer be used. `account`
    names the one it is of, where a user connected it and may disconnect it (core/connected.py).
    """

    token: bytes = field(repr=False)
    facts: Mapping[str, Any]
    assurance: Assurance
    until: float
    account: str | None = None


def asked_scope(rules: ExternalRules, of_tool: str | None) -> str | None:
    """The scope to ask for: the tool's, else the server's."""
    return of_tool or rules.scope


def first_request(rules: ExternalRules, subject_token: str, scope: str | None) -> dict[str, str]:
    """The form that shows the user's token, or our grant, to the server asked first."""
    if rules.grant == "on-behalf-of":
        form = {"grant_type": JWT_BEARER, "assertion": subject_token}
        return _with({**form, "requested_token_use": "on_behalf_of"}, scope=scope)
    if rules.grant == "jwt-bearer":
        return _with(
            {"grant_type": JWT_BEARER, "assertion": subject_token},
            scope=scope,
            audience=rules.asked_audience,
            resource=rules.resource,
        )
    form = {
        "grant_type": GRANT_TYPE,
        "subject_token": subject_token,
        "subject_token_type": JWT if rules.subject == "gateway" else rules.subject_token_type,
        "requested_token_type": _REQUESTED.get(rules.grant, ACCESS_TOKEN),
    }
    # In two steps the grant is for the second server; `resource` says what for in the end.
    audience = rules.issuer if rules.grant in TWO_STEPS else rules.asked_audience
    return _with(form, audience=audience, resource=rules.resource, scope=scope)


def second_request(rules: ExternalRules, grant: str, scope: str | None) -> dict[str, str]:
    """The form that redeems a grant of the first server at the second (RFC 7523 section 2.1)."""
    form = {"grant_type": JWT_BEARER, "assertion": grant}
    if rules.grant == "id-jag":
        return _with(form, scope=scope)
    return _with(form, scope=scope, audience=rules.asked_audience, resource=rules.resource)


def own_request(rules: ExternalRules) -> dict[str, str]:
    """The form by which we get a credential for ourselves (RFC 6749 section 4.4), to list tools with."""
    form = {"grant_type": "client_credentials"}
    return _with(form, scope=rules.scope, audience=rules.asked_audience, resource=rules.resource)


def check_subject_token(rules: ExternalRules, caller: Caller) -> None:
    """The caller's own token may be shown to its own issuer only. Raises UpstreamFailed."""
    if rules.subject == "caller" and caller.inbound.iss != rules.first_issuer:
        raise UpstreamFailed(
            "it takes the token of a user as its authorization server issued it, and the caller's is "
            "another's: come with that issuer's token, or let the operator set subject: gateway"
        )


def grant_claims(
    rules: ExternalRules, caller: Caller, scope: str | None, *, now: int, jti: str, txn: str
) -> dict[str, Any]:
    """The claims of a grant that we sign for the server asked first: user and chain, for that server only.

    RFC 7523 section 3, with `act` of RFC 8693 section 4.1. `now` is in Unix seconds.
    """
    claims: dict[str, Any] = {
        "iss": rules.public_url,
        "sub": caller.subject.name,
        "aud": rules.first_issuer,
        "client_id": rules.client_id,
        "act": act_claim(caller.chain, rules.public_url),
        "iat": now,
        "nbf": now,
        "exp": min(now + GRANT_LIFE, caller.exp),
        "jti": jti,
        "txn": caller.txn or txn,
    }
    if scope:
        claims["scope"] = scope
    return claims


def expected(rules: ExternalRules, caller: Caller, scope: str | None) -> Expected:
    """What the answer to the first request must say."""
    if rules.subject == "gateway":
        sent = tuple(hop.id for hop in caller.chain)
    else:
        sent = tuple(_subs(caller.claims.get("act")))
    return Expected(
        _subjects(rules, caller),
        sent,
        tuple(frozenset({hop.id}) | rules.agents.get(hop.id, frozenset()) for hop in caller.chain),
        frozenset((scope or "").split()),
        caller.exp + rules.outlive,
    )


def expected_of_own(rules: ExternalRules, now: float) -> Expected:
    """What a credential for ourselves must say: an audience and a scope; there is no user."""
    scopes = frozenset((rules.scope or "").split())
    return Expected(None, (), (), scopes, now + 86_400)


def _subjects(rules: ExternalRules, caller: Caller) -> frozenset[str]:
    if rules.subject_claim != "sub":
        value = caller.claims.get(rules.subject_claim)
        return frozenset({value} if isinstance(value, str) and value else ())
    names = set()
    if rules.users is not None and rules.users == caller.subject.iss:
        names.add(caller.subject.sub)
    if rules.subject == "gateway":
        names.add(caller.subject.name)
    return frozenset(names)


def _subs(act: Any) -> Iterator[str]:
    while isinstance(act, dict):
        yield str(act.get("sub"))
        act = act.get("act")


def _with(form: dict[str, str], **more: str | None) -> dict[str, str]:
    return {**form, **{name: value for name, value in more.items() if value}}
