"""The grants behind a login: an authorization code, a refresh token, a device code.

A login is what a user allowed at our consent page: an entry of the ledger, never a token. Whatever is issued
by it has it as parent, so taking the login back takes all of it. RFC 6749 sections 4.1.3 and 6, RFC 7636
section 4.6, RFC 9700 sections 2.1.1 and 4.14 (rotation, and what was used twice ends the login).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from agentgw.core.canonical import b64url
from agentgw.core.claims import MIN_LIFE
from agentgw.core.exchange import answer_of, claims_of
from agentgw.core.exchange_checks import check_actor_is_enabled, demand_proof, hop_of, reach_of
from agentgw.core.exchange_request import parse_scope
from agentgw.core.exchange_rules import Exchanged, ExchangeRules
from agentgw.core.one_time import Kept
from agentgw.core.possession import BARE, Presented, bound_to
from agentgw.core.principal import Issued
from agentgw.errors import OAuthError

AUTHORIZATION_CODE = "authorization_code"
REFRESH_TOKEN = "refresh_token"  # noqa: S105 - the name of a grant
DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"
LOGIN_GRANTS = (AUTHORIZATION_CODE, REFRESH_TOKEN, DEVICE_CODE)

CODE_SECONDS = 60
PENDING_SECONDS = 600
"""How long after a consent its code or device code may still be waiting to be taken up."""
CODE_KEPT_SECONDS = 600
"""How long a code is remembered, so that its being used twice is seen."""

_VERIFIER = re.compile(r"[A-Za-z0-9\-._~]{43,128}")
_SECRET_LIMIT = 200


class LoginRefused(OAuthError):
    """A code or refresh token that is real, in a request that is not right: somebody may have stolen it.

    `login` is what it stands for, `entry` the ledger's of that, for the record, once somebody looked.
    `ends` is what is to be taken back, with all that came of it: None for nothing.
    """

    def __init__(self, description: str, login: str, ends: str | None = None) -> None:
        super().__init__("invalid_grant", description)
        self.login = login
        self.ends = ends
        self.entry: Issued | None = None


class UsedTwice(LoginRefused):
    """A code or refresh token that was used before: somebody else has it. Its login is to be taken back."""

    def __init__(self, what: str, login: str) -> None:
        super().__init__(f"the {what} was used before, so the login has ended", login, ends=login)


class SignInEnded(LoginRefused):
    """The identity provider knows the user's sign-in no more: every login that stands on it has ended."""

    def __init__(self, login: str, sign_in: str) -> None:
        super().__init__(
            "the identity provider ended the user's sign-in, so the login has ended: have the user "
            "sign in again",
            login,
            ends=sign_in,
        )


@dataclass(frozen=True, slots=True)
class CodeRequest:
    """What a client sends to redeem its code. `target` is the one resource it wants, None for the login's."""

    code: str = field(repr=False)
    verifier: str = field(repr=False)
    redirect_uri: str | None
    target: str | None
    scopes: frozenset[str] | None = None
    grant_type: str = AUTHORIZATION_CODE


@dataclass(frozen=True, slots=True)
class RefreshRequest:
    """What a client sends to go on. `scopes` None means all that the login has."""

    token: str = field(repr=False)
    scopes: frozenset[str] | None
    target: str | None
    grant_type: str = REFRESH_TOKEN


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    """What a device asks for again and again, until its user has answered."""

    device_code: str = field(repr=False)
    target: str | None = None
    scopes: frozenset[str] | None = None
    grant_type: str = DEVICE_CODE


LoginRequest = CodeRequest | RefreshRequest | DeviceRequest


@dataclass(frozen=True, slots=True)
class Code:
    """What an authorization code stands for. `login` is the jti of a ledger entry, `until` Unix seconds,
    `jkt` the DPoP key that must redeem it."""

    login: str
    client_id: str
    redirect_uri: str
    challenge: str
    until: int
    jkt: str | None = None

    def payload(self) -> dict[str, Any]:
        """It as plain JSON, for `judge_code`."""
        return asdict(self)


class Standing(NamedTuple):
    """A login by which an agent may act, now or (`pending`) once its program takes up what was allowed."""

    entry: Issued
    pending: bool


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """What a refresh token stands for. `used` tells that another came in its place; `jkt` is the DPoP key
    it is bound to, `exp` Unix seconds."""

    login: str
    client_id: str
    exp: int
    used: bool = False
    jkt: str | None = None


def parse_login_request(form: Mapping[str, str]) -> LoginRequest:
    """The request that single-valued, non-empty form parameters make. Raises OAuthError."""
    if "audience" in form:
        raise _invalid_request("name the target by resource")
    target, scopes = form.get("resource"), parse_scope(form.get("scope"))
    match form.get("grant_type"):
        case "authorization_code":
            verifier = form.get("code_verifier", "")
            if not _VERIFIER.fullmatch(verifier):
                raise _invalid_request("code_verifier must be 43 to 128 characters (RFC 7636, 4.1)")
            return CodeRequest(_secret(form, "code"), verifier, form.get("redirect_uri"), target)
        case "refresh_token":
            return RefreshRequest(_secret(form, "refresh_token"), scopes, target)
        case _:
            return DeviceRequest(_secret(form, "device_code"))


def judge_code(
    asked: CodeRequest, kept: Kept | None, client_id: str, presented: Presented, now: float
) -> Code:
    """The code that was just taken, where this client may redeem it. Raises OAuthError.

    A code that was used before is UsedTwice, whoever brings it: it is in hands where it should not be.
    """
    if kept is None:
        raise _invalid_grant("the code is unknown or has expired")
    code = Code(**kept.payload)
    if kept.used is not None:
        raise UsedTwice("code", code.login)
    if code.until <= now:
        raise _invalid_grant("the code is unknown or has expired")
    if code.client_id != client_id:
        raise LoginRefused("the code was issued to another client", code.login)
    # With PKCE it binds nothing more, so OAuth 2.1 clients leave it out (section 10.2).
    if asked.redirect_uri not in (None, code.redirect_uri):
        raise LoginRefused("redirect_uri is not that of the authorization request", code.login)
    challenge = b64url(hashlib.sha256(asked.verifier.encode("ascii")).digest())
    if not hmac.compare_digest(challenge, code.challenge):
        raise LoginRefused("code_verifier does not fit the code_challenge", code.login)
    if code.jkt is not None and code.jkt != presented.jkt:
        raise LoginRefused(
            "the code is bound to a DPoP key, and no proof by that key came", code.login
        )
    return code


def judge_refresh(
    found: RefreshToken | None, client_id: str, presented: Presented, now: float
) -> RefreshToken:
    """The refresh token, where this client may use it. Raises OAuthError; one used before is UsedTwice."""
    if found is None:
        raise _invalid_grant("the refresh_token is unknown or has expired")
    if found.used:
        raise UsedTwice("refresh_token", found.login)
    if found.exp <= now:
        raise _invalid_grant("the refresh_token is unknown or has expired")
    if found.client_id != client_id:
        raise LoginRefused("the refresh_token was issued to another client", found.login)
    if found.jkt is not None and found.jkt != presented.jkt:
        raise LoginRefused(
            "the refresh_token is bound to a DPoP key, and no proof by that key came", found.login
        )
    return found


def issue_by_login(
    asked: LoginRequest,
    login: Issued | None,
    client: str,
    rules: ExchangeRules,
    *,
    now: int,
    jti: str,
    txn: str,
    evidence: str,
    presented: Presented = BARE,
) -> Exchanged:
    """Decide one request of the agent named `client` by a login; the others as in `core.exchange`.

    What the user allowed is judged by today's rules each time. Raises OAuthError.
    """
    actor = check_actor_is_enabled(client, rules)
    if actor.name not in rules.let_in:
        raise OAuthError("unauthorized_client", "users cannot sign in for this agent any more")
    demand_proof(actor, presented)
    if login is None or login.kind != "login" or login.exp - now < MIN_LIFE:
        raise _invalid_grant("the login has ended: have the user sign in again")
    if [hop.id for hop in login.chain] != [actor.id]:
        raise _invalid_grant("the login is another agent's")
    target = login.audience if asked.target is None else asked.target
    if target not in reach_of(login.resources, rules):
        raise OAuthError("invalid_target", "the resource lies beyond what the user allowed")
    scopes = login.scopes if asked.scopes is None else asked.scopes
    if not scopes <= login.scopes:
        raise OAuthError("invalid_scope", "more scope was asked for than the user allowed")
    issued = Issued(
        jti=jti,
        kind="gateway",
        parent=login.jti,
        subject=login.subject,
        groups=login.groups,
        chain=(hop_of(actor, evidence),),
        audience=target,
        scopes=scopes,
        txn=txn,
        iat=now,
        exp=min(login.exp, now + rules.max_life),
        presenter=actor.id,
        acr=login.acr,
        auth_time=login.auth_time,
        resources=frozenset({target}),
        binding=bound_to(None, actor.require, presented),
        consent=login.consent,
    )
    return Exchanged(issued, claims_of(issued, rules.issuer, None), answer_of(issued))


def _secret(form: Mapping[str, str], name: str) -> str:
    value = form.get(name)
    if value is None:
        raise _invalid_request(f"{name} is missing")
    if len(value) > _SECRET_LIMIT:
        raise _invalid_grant(f"the {name} was not issued here")
    return value


def _invalid_request(description: str) -> OAuthError:
    return OAuthError("invalid_request", description)


def _invalid_grant(description: str) -> OAuthError:
    return OAuthError("invalid_grant", description)
