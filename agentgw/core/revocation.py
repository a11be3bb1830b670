"""What was taken back: single tokens, users, agents. The rules, and what a worker remembers of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from agentgw.core.principal import Caller, Hop, Inbound, Subject
from agentgw.errors import OAuthError, Unavailable

Kind = Literal["token", "subject", "agent", "account"]


SPARED = 2_000
"""Callers remembered, until the next change, as not concerned: most calls then cost one look."""


@dataclass(frozen=True, slots=True)
class Revocation:
    """One change, numbered by `seq`: something is revoked, or (`lifted`) is so no more.

    `key` is a token's `token_key`, a user's `user_key`, an agent's id or an account's `account_key`.
    `until` is the end in Unix seconds, None for one that lasts until it is lifted.
    """

    seq: int
    kind: Kind
    key: str
    until: int | None
    lifted: bool = False


def token_key(inbound: Inbound, issuer: str) -> str:
    """The name of a token that nobody can change without its issuer; `issuer` is our own.

    Ours is known by its `jti`, another's by issuer and `jti`, or without a `jti` by the hash of what
    was signed: the signature itself can be rewritten by whoever holds an ECDSA token.
    """
    if inbound.jti is None:
        return inbound.signed or inbound.hash
    return inbound.jti if inbound.iss == issuer else foreign_key(inbound.iss, inbound.jti)


def foreign_key(issuer: str, jti: str) -> str:
    """The `token_key` of a token with a `jti` that another issuer made."""
    return f"{issuer} {jti}"


def user_key(alias: str, name: str) -> str:
    """The name of a user under which they are revoked: issuer alias and `sub`, or `user_claim` value."""
    return f"{alias}|{name}"


class Revoked:
    """All that is revoked right now, as this worker knows it. `issuer` is our own.

    `quiet` is true while there is nothing to know, which spares every call a further look. `stale`
    says that the truth cannot be read: then nobody may be served. A `quiet` one is never `stale`.
    """

    def __init__(self, issuer: str) -> None:
        self.quiet = True
        self._issuer = issuer
        self._stale = False
        self._ends: dict[tuple[Kind, str], int | None] = {}
        self._soonest: int | None = None
        self._spared: set[Caller] = set()

    @property
    def stale(self) -> bool:
        """Whether what is known here may be out of date by more than it may ever be."""
        return self._stale

    @stale.setter
    def stale(self, value: bool) -> None:
        self._stale = value
        self._settle()

    def apply(self, changes: Iterable[Revocation]) -> None:
        """Take on changes, in the order of their `seq`."""
        for change in changes:
            if change.lifted:
                self._ends.pop((change.kind, change.key), None)
            else:
                self._ends[change.kind, change.key] = change.until
        self._settle()

    def expire(self, now: float) -> None:
        """Forget what ended before `now`, in Unix seconds."""
        if self._soonest is None or now <= self._soonest:
            return
        self._ends = {
            name: until for name, until in self._ends.items() if until is None or until >= now
        }
        self._settle()

    def has_token(self, inbound: Inbound) -> bool:
        """Whether this very token was revoked, or one that it came from."""
        return not self.quiet and ("token", token_key(inbound, self._issuer)) in self._ends

    def has_account(self, key: str | None) -> bool:
        """Whether this account was disconnected, by its `account_key`; None is nobody's."""
        return key is not None and not self.quiet and ("account", key) in self._ends

    def concerns(self, caller: Caller) -> bool:
        """Whether anything of this caller was revoked."""
        return self.why(caller) is not None

    def tokens_of(self, caller: Caller) -> bool:
        """Whether a token that this caller stands on was revoked."""
        if self.quiet or caller in self._spared:
            return False
        proof = caller.actor
        return self.has_token(caller.inbound) or (proof is not None and self.has_token(proof))

    def party(self, subject: Subject | None, chain: Iterable[Hop]) -> str | None:
        """Which of these was revoked, in words: the user, or an agent wherever it stands."""
        if self.quiet:
            return None
        ends = self._ends
        for hop in chain:
            if ("agent", hop.id) in ends:
                return f"agent {hop.agent or hop.id}"
        if subject is None:
            return None
        names = (subject.sub, subject.known_as)
        if any(name and ("subject", user_key(subject.iss, name)) in ends for name in names):
            return f"user {subject.sub}"
        return None

    def why(self, caller: Caller) -> str | None:
        """What of this caller was revoked, in words; None where nothing was. Threads may ask."""
        spared = self._spared  # a change meanwhile starts another, without what is found here
        if self.quiet or caller in spared:
            return None
        if self.tokens_of(caller):
            return "the token"
        party = self.party(caller.subject, caller.chain)
        if party is None:
            if len(spared) >= SPARED:
                spared.clear()
            spared.add(caller)
        return party

    def _settle(self) -> None:
        self._spared = set()
        self._soonest = min((end for end in self._ends.values() if end is not None), default=None)
        self.quiet = not self._ends and not self._stale


def check_parties(revoked: Revoked, subject: Subject | None, chain: Iterable[Hop]) -> None:
    """Nothing is issued for or to whom was revoked. Raises OAuthError, or Unavailable while unknown."""
    if revoked.stale:
        raise Unavailable("revocations cannot be read")
    party = revoked.party(subject, chain)
    if party is not None:
        raise OAuthError("invalid_grant", f"{party} is revoked")
