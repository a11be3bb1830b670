"""Who is calling: the values that every room passes on. Nothing here decides anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from agentgw.core.authorization_details import OneTool
from agentgw.core.consent import Consent
from agentgw.core.possession import Binding

EVIDENCE = (
    "client-claim", "idp-facet", "act-claim", "consent", "client-auth",
    "exchange", "receipt", "dpop", "mtls",
)  # fmt: skip
"""Evidence classes from weakest to strongest; `min_evidence` of a grant compares positions here."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A user: `iss` is the issuer's alias in our configuration, `sub` the issuer's own subject.

    `name` is how tokens and grants spell it: `alias|sub`, or the bare sub of a `subject: plain` issuer.
    `known_as` is the value of the issuer's `user_claim`, where one is configured: grants then name the
    user by it instead of by `sub`. Where an agent acts for itself, `agent` is its configured name,
    `sub` and `name` its id, and `iss` our own issuer.
    """

    iss: str
    sub: str
    name: str
    known_as: str | None = None
    agent: str | None = None


@dataclass(frozen=True, slots=True)
class Hop:
    """One agent of a chain: `id` is its URI (`{public_url}/a2a/{name}`; for an unregistered client
    `client:{alias}|{client_id}`), `agent` its configured name (None when unregistered), and
    `evidence` how it was proven (one of EVIDENCE). `behind` tells that it came into the chain as the
    agent behind a tool server that the next older one called; otherwise that one handed over to it."""

    id: str
    agent: str | None
    evidence: str
    behind: bool = False


@dataclass(frozen=True, slots=True)
class Inbound:
    """What a record keeps of the token that came in: `hash` is `sha-256:` + base64url of its bytes.

    `signed`, not recorded, is the same of what was signed: nobody but the issuer can change that.
    """

    iss: str
    jti: str | None
    hash: str
    signed: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Caller:
    """A verified caller. `chain` runs from the current actor outwards to the first; times are Unix seconds.

    `resources` are those of our own resource URLs this token may be used at. `claims` are the verified
    claims, for conditions only; nothing is decided on them elsewhere. `notes` are facts for the record
    (an `act` that was dropped, for example). `details` is the one tool the token is for, None where it
    is for all that policy allows; `consent` is what the user consented to, None where nobody asked them
    here. `actor` is the token by which the current actor proved itself, where
    that is another than `inbound`. `binding` is what the token at the door is bound to: whoever takes
    this caller from a request must see it proven there, each time. One object is made per verified
    token and compared by identity, so that what was decided for it is found again at once.
    """

    subject: Subject
    chain: tuple[Hop, ...]
    scopes: frozenset[str]
    resources: frozenset[str]
    exp: int
    inbound: Inbound
    presenter: str
    groups: frozenset[str] = frozenset()
    txn: str | None = None
    acr: str | None = None
    auth_time: int | None = None
    claims: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    notes: tuple[str, ...] = ()
    details: OneTool | None = None
    receipts: tuple[str, ...] = ()
    actor: Inbound | None = None
    binding: Binding | None = None
    consent: Consent | None = None


@dataclass(frozen=True, slots=True)
class Issued:
    """What the ledger keeps of a token we issued for our own endpoints (exchange, hand-over).

    `kind` is `gateway` (audience is one of our resources), `hand-over` (audience is an agent), `call`
    (a per-call token that the agent behind the tool server which is its audience may exchange once), or
    `login` (no token, but that a user let an agent in: what is issued by it has it as `parent`).
    `exp` already is the smallest of the chain; `parent` is the `token_key` of what was exchanged for
    it, whoever issued that. `resources` are those of our own resource URLs that this authority reaches,
    kept through a hand-over; `details` is the one tool it is for, if it is for one only. `binding` is
    what the token's `cnf` says, `receipts` are its actor receipts, the newest first (core/receipts.py),
    `consent` is the limit that the user set when they let the first agent act for them.
    """

    jti: str
    kind: str
    parent: str | None
    subject: Subject
    groups: frozenset[str]
    chain: tuple[Hop, ...]
    audience: str
    scopes: frozenset[str]
    txn: str
    iat: int
    exp: int
    presenter: str
    acr: str | None = None
    auth_time: int | None = None
    resources: frozenset[str] = frozenset()
    details: OneTool | None = None
    binding: Binding | None = None
    receipts: tuple[str, ...] = ()
    consent: Consent | None = None
