"""Asking the identity provider again: whether who signed in is still there, and in which groups.

OpenID Connect Core 1.0 sections 5.3 (userinfo), 11 (offline access) and 12 (refresh). A login stands on the
sign-in that it was consented to in: once the provider says that this is over, so is every login on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from agentgw.core.claims import groups_of, subject_of
from agentgw.core.connected import Place
from agentgw.core.principal import Issued, Subject
from agentgw.core.sign_in import (
    LoginRules,
    Person,
    check_own_token,
    read_person,
    refresh_token_in,
    same,
    to_payload,
)
from agentgw.errors import InvalidToken, UpstreamFailed

_SIGN_IN = "sign-in:"
_UNKNOWN_USER = "it answered about another user"


class SignInOver(UpstreamFailed):
    """The provider takes the sign-in's refresh token no more (`invalid_grant`): user or session is gone."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Seconds: what the provider said counts for `recheck` without asking and for `limit` while it cannot
    be asked. A login that nobody can ask about ends at the age of `max_age`; none lasts `longest`."""

    recheck: int
    limit: int
    max_age: int
    longest: int


@dataclass(frozen=True, slots=True)
class Known:
    """What is kept of a sign-in: the provider's `refresh` token, whose it is (`client_id`), the `nonce` of
    the sign-in, and who the provider said it was, lately (`checked`, Unix seconds)."""

    refresh: str = field(repr=False)
    client_id: str
    nonce: str = field(repr=False)
    checked: int
    person: Person

    def content(self) -> dict[str, Any]:
        """It as plain JSON, for `read_known`."""
        return {
            "refresh": self.refresh,
            "client_id": self.client_id,
            "nonce": self.nonce,
            "checked": self.checked,
            "person": to_payload(self.person),
        }

    def lay_over(self, login: Issued) -> Issued:
        """The login for who its user is by now: they may have left groups since."""
        return replace(login, subject=self.person.subject, groups=self.person.groups)


def read_known(content: Mapping[str, Any]) -> Known:
    """What `Known.content` wrote."""
    person = read_person(content["person"])
    return Known(
        content["refresh"], content["client_id"], content["nonce"], content["checked"], person
    )


def sign_in_key(sid: str) -> str:
    """The name of a sign-in: the `parent` of the logins that stand on it, under which it is revoked."""
    return _SIGN_IN + sid


def sign_in_of(login: Issued) -> str | None:
    """The sign-in that a login stands on; None for one of an earlier version."""
    parent = login.parent
    return parent if parent is not None and parent.startswith(_SIGN_IN) else None


def place_of(subject: Subject, issuer: str, sign_in: str) -> Place:
    """Where the vault keeps a sign-in of `subject` at the provider `issuer`: at no tool server."""
    return Place(subject.iss, subject.sub, issuer, "", sign_in)


@dataclass(frozen=True, slots=True)
class Renewed:
    """The provider's answer to a refresh: the token for the next one, and what tells who it is about."""

    refresh: str = field(repr=False)
    id_token: str | None = field(repr=False)
    access: str | None = field(repr=False)


def refresh_form(known: Known) -> dict[str, str]:
    """The token request, but for the client's authentication (RFC 6749 section 6)."""
    return {"grant_type": "refresh_token", "refresh_token": known.refresh}


def read_renewed(status: int, document: Any, known: Known) -> Renewed:
    """What a token answer holds. Raises SignInOver, or UpstreamFailed where it says nothing of the user."""
    said = document if isinstance(document, dict) else {}
    if status != 200:
        if said.get("error") == "invalid_grant":
            raise SignInOver("it takes the sign-in no more")
        raise UpstreamFailed(f"it refused to refresh a sign-in, with status {status}")
    id_token, access = said.get("id_token"), said.get("access_token")
    return Renewed(
        refresh_token_in(said) or known.refresh,
        id_token if isinstance(id_token, str) else None,
        access if isinstance(access, str) else None,
    )


def judge_again(
    claims: Mapping[str, Any],
    typ: str | None,
    alg: str,
    rules: LoginRules,
    known: Known,
    now: float,
) -> Person:
    """Who a refreshed ID token is about, whose signature holds (section 12.2). Raises InvalidToken."""
    check_own_token(claims, typ, alg, rules, now)
    nonce = claims.get("nonce")
    if nonce is not None and not (isinstance(nonce, str) and same(nonce, known.nonce)):
        raise InvalidToken("the ID token's nonce is not that of the sign-in")
    return judge_userinfo(claims, rules, known)


def judge_userinfo(claims: Any, rules: LoginRules, known: Known) -> Person:
    """Who claims are about that the provider itself gave: the same user, by today's claims.

    Raises InvalidToken.
    """
    before = known.person
    if not isinstance(claims, dict) or claims.get("sub") != before.subject.sub:
        raise InvalidToken(_UNKNOWN_USER)
    subject = subject_of(claims, rules.issuer, rules.public_url)
    return replace(before, subject=subject, groups=groups_of(claims, rules.issuer))
