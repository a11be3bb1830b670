"""Who is calling: the contract of this room.

`TokenVerifier` (verifier.py) is the implementation for JWTs of OpenID Connect issuers and our own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from agentgw.core.actor import AgentRules, ClientRule
from agentgw.core.authorization_details import OneTool
from agentgw.core.claims import IssuerRules
from agentgw.core.possession import Binding
from agentgw.core.principal import Hop, Inbound, Issued, Subject
from agentgw.identity.jwk import VerifyKey

__all__ = [
    "AgentRules",
    "ClientRule",
    "Grant",
    "IssuerRules",
    "OwnTokens",
    "Verified",
]


class OwnTokens(Protocol):
    """What this room must know of the tokens we issue ourselves."""

    @property
    def issuer(self) -> str:
        """Our issuer identifier, which is the public URL."""

    def key(self, kid: str) -> VerifyKey | None:
        """The public key that we sign, or lately signed, with under `kid`, bound to its algorithm."""

    async def issued(self, jti: str) -> Issued | None:
        """The ledger's entry of a gateway or hand-over token; None where there is none or no more.

        Raises Unavailable.
        """


@dataclass(frozen=True, slots=True)
class Verified:
    """A token that is genuine and alive; whether it may be used at a door is not decided yet.

    The three cases of a subject_token (RFC 8693 section 2.1; core/exchange.py) tell themselves apart by:
    continue    `resources` is not empty and `chain[0].agent` is the authenticated client's;
    first hop   `resources` is not empty, `has_act` is false, `issued` is None and
                (`issuer`, `client_id`) is listed in the agent's subject_from;
    hand-over   `issued` has kind `hand-over`: its `audience` and `may_act` are the agent's id.
    `may_act` binds in every case: where it is not None, only that id may act.
    `dropped_act` tells of an `act` its issuer may not assert; such a token is no subject_token.

    `issuer` is the issuer's alias, or our public URL for a token of ours, whose `issued` is then the
    ledger's entry. `details` is the one tool it is for, if it is for one only.
    `chain` is not yet checked for weak evidence (a bare client name). `until` (Unix seconds) is when
    its issuer must be asked about it again. `binding` is what the token is bound to:
    who presents it must prove it (core/possession.check_presented).
    """

    claims: Mapping[str, Any]
    issuer: str
    subject: Subject
    groups: frozenset[str]
    scopes: frozenset[str]
    resources: frozenset[str]
    chain: tuple[Hop, ...]
    presenter: str
    client_id: str | None
    has_act: bool
    dropped_act: bool
    may_act: str | None
    exp: int
    inbound: Inbound
    issued: Issued | None = None
    txn: str | None = None
    acr: str | None = None
    auth_time: int | None = None
    notes: tuple[str, ...] = ()
    details: OneTool | None = None
    until: float = math.inf
    binding: Binding | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """A genuine JWT of an issuer, not yet judged: its claims, the `typ` of its header, and what records
    keep of it."""

    claims: Mapping[str, Any]
    typ: str | None
    issuer: IssuerRules
    inbound: Inbound
