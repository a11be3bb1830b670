"""Signing in at an OpenID provider: what its relying party asks for, and what of the answers it believes.

OpenID Connect Core 1.0 section 3.1 (code flow), with PKCE (RFC 7636) and the `iss` of RFC 9207. Nothing
that the provider or the browser said is repeated in a reason, but for OAuth's own error codes.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from agentgw.core.canonical import b64url
from agentgw.core.claims import (
    LEEWAY,
    NAME_LIMIT,
    IssuerRules,
    audience_of,
    check_times,
    groups_of,
    subject_of,
)
from agentgw.core.principal import Subject
from agentgw.errors import CallerError, InvalidToken, UpstreamFailed

FLOW_SECONDS = 600
"""How long somebody may take to sign in."""

OFFLINE = "offline_access"
"""The scope that asks for a refresh token (Core section 11)."""

_OFFLINE_REFUSED = ("invalid_scope", "not_allowed")
"""RFC 6749 section 4.1.2.1, and what Keycloak says of a user without the role for it."""

REFRESH_LIMIT = 16 * 1024
_SHOWN_NAME = 100
_ERRORS = frozenset({
    "access_denied", "interaction_required", "login_required", "account_selection_required",
    "consent_required", "invalid_request", "unauthorized_client", "unsupported_response_type",
    "invalid_scope", "server_error", "temporarily_unavailable",
})  # fmt: skip


class SignInRefused(CallerError):
    """Signing in came to nothing. `reason` is safe to show; `cancelled` says that the user broke it off."""

    def __init__(self, reason: str, *, cancelled: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.cancelled = cancelled


class OfflineRefused(SignInRefused):
    """The provider knows `offline_access` but does not give it to this client or user: go without."""


@dataclass(frozen=True, slots=True)
class LoginRules:
    """Where users sign in, and as which client of it. `confidential`: the client has a credential.

    `dev` allows plain http; `public_url` is our own. `offline` says whether a refresh token is asked for,
    None: where the provider says that it knows `offline_access`.
    """

    issuer: IssuerRules
    client_id: str
    scope: str
    public_url: str
    confidential: bool
    dev: bool = False
    offline: bool | None = None

    @property
    def redirect_uri(self) -> str:
        """The one place to which the provider may send people back."""
        return f"{self.public_url}/oauth/callback"


@dataclass(frozen=True, slots=True)
class Flow:
    """One sign-in under way, known to one browser only.

    `issuer` is where it leads, `then` the local path to go on to, `exp` Unix seconds. `online` says that no
    refresh token is asked for, since that was refused.
    """

    issuer: str
    state: str
    nonce: str
    verifier: str
    then: str
    exp: int
    online: bool = False


@dataclass(frozen=True, slots=True)
class Person:
    """A user as an ID token names them: subject and groups by the rules of its issuer.

    `name` is to be shown and never decided on; `auth_time` is Unix seconds.
    """

    subject: Subject
    groups: frozenset[str]
    name: str | None = None
    acr: str | None = None
    auth_time: int | None = None


@dataclass(frozen=True, slots=True)
class Proven:
    """Who signed in, and the provider's refresh token where it gave one."""

    person: Person
    refresh: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A person and the browser session they signed in with.

    `sid` names the session and opens nothing; it began `at` and ends at `exp` (Unix seconds). `renewable`
    says that the provider can be asked again who they are.
    """

    subject: Subject
    groups: frozenset[str]
    name: str | None
    acr: str | None
    auth_time: int | None
    exp: int
    sid: str
    at: int
    renewable: bool


def to_payload(person: Person) -> dict[str, Any]:
    """A person as plain JSON, for `read_person`."""
    subject = person.subject
    return {
        "subject": {
            "iss": subject.iss,
            "sub": subject.sub,
            "name": subject.name,
            "known_as": subject.known_as,
        },
        "groups": sorted(person.groups),
        "name": person.name,
        "acr": person.acr,
        "auth_time": person.auth_time,
    }


def read_person(payload: Mapping[str, Any]) -> Person:
    """The person that was kept as `to_payload` made it. Raises KeyError or TypeError."""
    return Person(
        Subject(**payload["subject"]),
        frozenset(payload["groups"]),
        payload["name"],
        payload["acr"],
        payload["auth_time"],
    )


def in_session(person: Person, session: Mapping[str, Any]) -> SignedIn:
    """The person in their session. Raises KeyError."""
    return SignedIn(
        person.subject,
        person.groups,
        person.name,
        person.acr,
        person.auth_time,
        session["exp"],
        session["sid"],
        session["at"],
        session["renewable"],
    )


def authorization_url(rules: LoginRules, metadata: Mapping[str, Any], flow: Flow) -> str:
    """Where to send the browser (OIDC Core 3.1.2.1), of metadata that names the right issuer.

    Raises UpstreamFailed for metadata that cannot be followed safely.
    """
    endpoint = _endpoint(metadata, rules.dev)
    methods = metadata.get("code_challenge_methods_supported")
    # A nonce defends the code of a confidential client as well; a public one has PKCE alone.
    if methods is None and not rules.confidential:
        raise UpstreamFailed("it does not say that it does PKCE, which a public client needs")
    if methods is not None and not (isinstance(methods, list) and "S256" in methods):
        raise UpstreamFailed("it does not do PKCE with S256")
    asked = {
        "response_type": "code",
        "client_id": rules.client_id,
        "redirect_uri": rules.redirect_uri,
        "scope": _scope(rules, metadata, flow),
        "state": flow.state,
        "nonce": flow.nonce,
        "code_challenge": b64url(hashlib.sha256(flow.verifier.encode("ascii")).digest()),
        "code_challenge_method": "S256",
    }
    query = urlsplit(endpoint).query
    if asked.keys() & {name for name, _ in parse_qsl(query, keep_blank_values=True)}:
        raise UpstreamFailed("its authorization_endpoint sets parameters that are ours")
    return f"{endpoint}{'&' if query else '?'}{urlencode(asked)}"


def _endpoint(metadata: Mapping[str, Any], dev: bool) -> str:
    endpoint = metadata.get("authorization_endpoint")
    try:
        parts = urlsplit(endpoint) if isinstance(endpoint, str) else None
    except ValueError:
        parts = None
    if not isinstance(endpoint, str) or parts is None or not parts.hostname:
        raise UpstreamFailed("its metadata has no authorization_endpoint")
    sound = endpoint.isascii() and endpoint.isprintable() and not set(endpoint) & set(' \\"<>#')
    if not sound or "@" in parts.netloc:
        raise UpstreamFailed("its authorization_endpoint cannot be followed")
    if parts.scheme != "https" and not (dev and parts.scheme == "http"):
        raise UpstreamFailed("its authorization_endpoint is not https")
    return endpoint


def may_go_without(rules: LoginRules, metadata: Mapping[str, Any], flow: Flow, error: Any) -> bool:
    """Whether a sign-in failed with this error code for no other reason, maybe, than that `offline_access`
    was asked for without anybody having said so."""
    asked = OFFLINE in _scope(rules, metadata, flow).split()
    told = rules.offline is True or OFFLINE in rules.scope.split()
    return asked and not told and error in _OFFLINE_REFUSED


def _scope(rules: LoginRules, metadata: Mapping[str, Any], flow: Flow) -> str:
    """The scopes to ask for, `offline_access` among them where a refresh token is to be had by it.

    Core section 11 wants `prompt=consent` beside it "unless other conditions" hold: most providers need
    no such thing, and at some it would put the same question to every user at every sign-in.
    """
    known = metadata.get("scopes_supported")
    offline = rules.offline
    if offline is None:
        offline = isinstance(known, list) and OFFLINE in known and not flow.online
    return " ".join(
        dict.fromkeys(["openid", *rules.scope.split(), *([OFFLINE] if offline else [])])
    )


def read_callback(query: bytes) -> dict[str, str]:
    """The parameters of the answer in the browser's hands, each once. Raises SignInRefused."""
    try:
        pairs = parse_qsl(
            query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=20
        )
    except ValueError:
        raise SignInRefused("the identity provider's answer cannot be read") from None
    found = dict(pairs)
    if len(found) != len(pairs):
        raise SignInRefused("the identity provider's answer has a parameter twice")
    return found


def same(one: str, other: str) -> bool:
    """Whether two secrets are equal, in a time that tells nothing of where they differ."""
    return hmac.compare_digest(one.encode("utf-8", "replace"), other.encode("utf-8", "replace"))


def judge_callback(
    answer: Mapping[str, str], metadata: Mapping[str, Any], rules: LoginRules, flow: Flow
) -> str:
    """The code in the answer to `flow` (whose state was found equal). Raises SignInRefused.

    Whose answer it is comes first: another's error is refused like another's code (RFC 9207
    section 2.4).
    """
    if flow.issuer != rules.issuer.issuer:
        raise SignInRefused("users sign in elsewhere now")
    said = answer.get("iss")
    must = metadata.get("authorization_response_iss_parameter_supported") is True
    if said != flow.issuer and (said is not None or must):
        raise SignInRefused("the answer is not of the identity provider that was asked")
    if "error" in answer:
        code = answer["error"] if answer["error"] in _ERRORS else "an unknown error"
        raise SignInRefused(
            f"the identity provider answered {code}", cancelled=code == "access_denied"
        )
    code = answer.get("code", "")
    if not 0 < len(code) <= 4096 or not code.isascii() or not code.isprintable():
        raise SignInRefused("the identity provider's answer has no code")
    return code


def code_request(rules: LoginRules, flow: Flow, code: str) -> dict[str, str]:
    """The token request, but for the client's authentication (OIDC Core 3.1.3.1, RFC 7636 4.5)."""
    return {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": rules.redirect_uri,
        "code_verifier": flow.verifier,
    }


def id_token_of(status: int, document: Any) -> str:
    """The ID token of a token answer. Raises SignInRefused where the code was not taken."""
    if status != 200:
        raise SignInRefused("the identity provider did not take the code back")
    token = document.get("id_token") if isinstance(document, dict) else None
    if not isinstance(token, str):
        raise SignInRefused("the identity provider answered without an ID token")
    return token


def refresh_token_in(document: Any) -> str | None:
    """The refresh token of a token answer; None where there is none that could be sent back."""
    token = document.get("refresh_token") if isinstance(document, dict) else None
    if not isinstance(token, str) or not 0 < len(token) <= REFRESH_LIMIT:
        return None
    return token if token.isascii() and token.isprintable() else None


def judge_id_token(
    claims: Mapping[str, Any],
    typ: str | None,
    alg: str,
    rules: LoginRules,
    flow: Flow,
    now: float,
) -> Person:
    """Who signed in, by an ID token whose signature holds (OIDC Core 3.1.3.7). Raises InvalidToken.

    `typ` and `alg` are those of the header; `at_hash` is not looked at, since no access token is used.
    """
    check_own_token(claims, typ, alg, rules, now)
    nonce = claims.get("nonce")
    if not isinstance(nonce, str) or not same(nonce, flow.nonce):
        raise InvalidToken("the ID token's nonce is not that of this sign-in")
    return Person(
        subject_of(claims, rules.issuer, rules.public_url),
        groups_of(claims, rules.issuer),
        _shown_name(claims),
        _acr(claims.get("acr")),
        claims.get("auth_time"),
    )


def check_own_token(
    claims: Mapping[str, Any], typ: str | None, alg: str, rules: LoginRules, now: float
) -> None:
    """Whether an ID token is one for us, issued lately. Raises InvalidToken."""
    if claims.get("iss") != rules.issuer.issuer:
        raise InvalidToken("the ID token is of another issuer")
    if set(audience_of(claims)) != {rules.client_id}:
        raise InvalidToken("the ID token is for another client, or for others too")
    if claims.get("azp", rules.client_id) != rules.client_id:
        raise InvalidToken("the ID token was issued to another client")
    if typ not in (None, "jwt"):
        raise InvalidToken("the ID token's typ header is another kind's")
    if rules.issuer.algorithms and alg not in rules.issuer.algorithms:
        raise InvalidToken("the ID token's alg is not among the algorithms of its issuer")
    check_times(claims, now, min_life=0)
    issued = claims.get("iat")
    if type(issued) is not int or issued < now - FLOW_SECONDS - LEEWAY:
        raise InvalidToken("the ID token was not issued for this sign-in, by its iat")
    auth_time = claims.get("auth_time")
    if auth_time is not None and (type(auth_time) is not int or auth_time > now + LEEWAY):
        raise InvalidToken("the ID token's auth_time is no moment of the past")


def _acr(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > NAME_LIMIT or not value.isprintable():
        raise InvalidToken("the ID token's acr is no short text")
    return value


def _shown_name(claims: Mapping[str, Any]) -> str | None:
    for claim in ("name", "preferred_username", "email"):
        value = claims.get(claim)
        if isinstance(value, str) and 0 < len(value) <= _SHOWN_NAME and value.isprintable():
            return value
    return None
