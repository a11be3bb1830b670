"""What another authorization server gave us, and whether it is what was asked for.

Nothing of it is believed before: the same user, the agents that were shown to it, one audience, no more
scope and no longer life. Every check raises AnswerRefused with the difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from agentgw.core.canonical import digest
from agentgw.core.claims import audience_of, check_times, scopes_of
from agentgw.core.exchange_request import ACCESS_TOKEN
from agentgw.core.external_exchange import (
    ID_JAG,
    JWT,
    TWO_STEPS,
    Credential,
    Expected,
    ExternalRules,
)
from agentgw.core.record import Assurance
from agentgw.errors import AnswerRefused, InvalidToken, UpstreamFailed

LEEWAY = 5
"""Seconds two clocks may differ where lives are compared."""

SHOWN = 120
"""Characters of another's value that a record keeps."""

ERRORS = frozenset(
    {
        "invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "invalid_scope",
        "unsupported_grant_type", "invalid_target", "access_denied", "interaction_required",
        "consent_required", "login_required", "insufficient_user_authentication", "server_error",
        "temporarily_unavailable", "invalid_dpop_proof", "use_dpop_nonce", "actor_unauthorized",
    }
)  # fmt: skip
"""Error codes of the RFCs and of OpenID Connect; any other word of a server is not repeated."""

_ID_OR_LOGOUT = ("nonce", "at_hash", "c_hash", "events")
_ACCESS = ("bearer", "access", "access_token", "at+jwt", "jwt")


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    """A token response (RFC 6749 section 5.1, RFC 8693 section 2.2.1). `expires_in` is in seconds."""

    token: str = field(repr=False)
    scopes: frozenset[str] | None
    expires_in: int | None


@dataclass(frozen=True, slots=True)
class ReadToken:
    """What a token says: genuine claims, and the `typ` of its header, lower case, if it is a JWT."""

    claims: Mapping[str, Any]
    typ: str | None


def read_answer(status: int, document: Any, rules: ExternalRules, *, is_grant: bool) -> TokenAnswer:
    """The token of an answer; `is_grant` for the first of two steps. Raises UpstreamFailed."""
    if not isinstance(document, dict):
        raise UpstreamFailed("its authorization server answered no JSON object")
    if status != 200 or "error" in document:
        code = document.get("error")
        known = code if isinstance(code, str) and code in ERRORS else f"with status {status}"
        raise UpstreamFailed(f"its authorization server refused: {known}")
    token, kind = document.get("access_token"), document.get("token_type")
    if not isinstance(token, str) or not 0 < len(token) <= rules.token_limit:
        raise _refused("access_token", f"a string of at most {rules.token_limit} bytes", None)
    if not token.isascii() or not token.isprintable() or " " in token:
        raise _refused("access_token", "a token", None)
    wanted = ("n_a", "bearer") if is_grant else ("bearer",)
    if not isinstance(kind, str) or kind.lower() not in wanted:
        raise _refused("token_type", "N_A" if is_grant else "Bearer", kind)
    issued = document.get("issued_token_type")
    if issued is not None and issued not in _issued_types(rules, is_grant):
        raise _refused("issued_token_type", _issued_types(rules, is_grant)[0], issued)
    expires_in = _seconds(document.get("expires_in"))
    scope = document.get("scope")
    if scope is not None and not isinstance(scope, str):
        raise _refused("scope", "a string", scope)
    return TokenAnswer(token, None if scope is None else frozenset(scope.split()), expires_in)


def check_credential(
    rules: ExternalRules, wanted: Expected, answer: TokenAnswer, read: ReadToken | None, now: float
) -> Credential:
    """The credential an answer is, fit to be sent. `read` is None for a token nobody but its server can
    read: then only the answer itself is judged. Raises AnswerRefused."""
    claims: Mapping[str, Any] = {} if read is None else read.claims
    _check_scopes(wanted.scopes | rules.allowed_scopes, answer, claims)
    exp = _check_life(wanted, answer, None if read is None else claims, now)
    assurance: Assurance = "grant" if wanted.sent else "audit-only"
    if read is not None:
        _check_kind(read)
        _check_audience(claims, rules.audience)
        if wanted.subjects is not None:
            _check_subject(claims, rules.subject_claim, wanted.subjects)
        assurance = _check_actors(claims, rules, wanted)
    jti = claims.get("jti")
    scopes = _scopes(claims) if "scope" in claims or "scp" in claims else answer.scopes
    facts = {
        "iss": rules.issuer,
        "jti_hash": digest(jti.encode("utf-8", "replace")) if isinstance(jti, str) else None,
        "aud": rules.audience,
        "scope": " ".join(sorted(wanted.scopes if scopes is None else scopes)) or None,
        "exp": int(exp),
        "authorization_server": rules.name,
    }
    return Credential(answer.token.encode("ascii"), facts, assurance, min(exp, wanted.latest))


def check_grant(
    rules: ExternalRules, wanted: Expected, answer: TokenAnswer, read: ReadToken | None, now: float
) -> Expected:
    """The first of two steps gave a grant for the second server: what that must then say.

    The ID-JAG draft, section 3; identity chaining, section 2.3. Raises AnswerRefused.
    """
    if read is None:
        raise _refused("access_token", "a JWT", "an opaque token")
    claims = read.claims
    if rules.grant == "id-jag":
        if read.typ != "oauth-id-jag+jwt":
            raise _refused("typ", "oauth-id-jag+jwt", read.typ)
        if claims.get("client_id") != rules.client_id:
            raise _refused("client_id", rules.client_id, claims.get("client_id"))
        if claims.get("resource", rules.resource) not in (rules.resource, [rules.resource]):
            raise _refused("resource", rules.resource, claims.get("resource"))
    _check_scopes(wanted.scopes | rules.allowed_scopes, answer, claims)
    _check_life(wanted, answer, claims, now)
    _check_audience(claims, rules.issuer)
    _check_subject(claims, rules.subject_claim, wanted.subjects or frozenset())
    _check_actors(claims, rules, wanted)
    if rules.subject_claim == "sub":
        named = claims.get("aud_sub", claims["sub"])
        wanted = replace(wanted, subjects=frozenset({named} if isinstance(named, str) else ()))
    return replace(wanted, sent=_acts(claims, rules) if "act" in claims else ())


def _check_kind(read: ReadToken) -> None:
    """An access token for whoever bears it: no ID token, nothing bound to a key we do not hold."""
    claims = read.claims
    if read.typ not in (None, "at+jwt", "jwt"):
        raise _refused("typ", "at+jwt", read.typ)
    for name in _ID_OR_LOGOUT:
        if name in claims:
            raise _refused(name, None, "present: it is no access token")
    kind = claims.get("typ", "bearer")
    if not isinstance(kind, str) or kind.lower() not in _ACCESS:
        raise _refused("typ", "Bearer", kind)
    if "cnf" in claims:
        raise _refused("cnf", None, "present: it is bound to a key that is not ours")


def _check_subject(claims: Mapping[str, Any], claim: str, wanted: frozenset[str]) -> None:
    got = claims.get(claim)
    if not isinstance(got, str) or got not in wanted:
        raise _refused(claim, " or ".join(sorted(wanted)) or "a user it knows", got, "another user")


def _check_audience(claims: Mapping[str, Any], wanted: str) -> None:
    try:
        got = audience_of(claims)
    except InvalidToken as error:
        raise _refused("aud", wanted, error.reason) from None
    if got != (wanted,):
        raise _refused("aud", wanted, " ".join(got), "another audience")


def _check_scopes(allowed: frozenset[str], answer: TokenAnswer, claims: Mapping[str, Any]) -> None:
    for got in (answer.scopes or frozenset(), _scopes(claims)):
        if not got <= allowed:
            wanted = " ".join(sorted(allowed))
            raise _refused("scope", wanted, " ".join(sorted(got)), "more scope")


def _scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    try:
        return scopes_of(claims)
    except InvalidToken as error:
        raise _refused("scope", "a string of scopes", error.reason) from None


def _check_life(
    wanted: Expected, answer: TokenAnswer, claims: Mapping[str, Any] | None, now: float
) -> float:
    ends = [] if answer.expires_in is None else [now + answer.expires_in]
    if claims is not None:
        try:
            ends.append(check_times(claims, now, min_life=1))
        except InvalidToken as error:
            raise _refused("exp", int(wanted.latest), error.reason) from None
    if not ends:
        raise _refused("expires_in", "seconds", None)
    if max(ends) > wanted.latest + LEEWAY:
        raise _refused("exp", int(wanted.latest), int(max(ends)), "a longer life")
    return min(ends)


def _check_actors(claims: Mapping[str, Any], rules: ExternalRules, wanted: Expected) -> Assurance:
    """Every hop that was shown stands in the answer, in order; we ourselves may stand before them."""
    if "act" not in claims:
        if wanted.sent and not rules.act_optional:
            raise _refused("act", " < ".join(wanted.sent), None, "fewer agents")
        return "audit-only"
    got = _acts(claims, rules)
    chain = wanted.chain
    whole = len(got) == len(chain) and all(
        sub in names for sub, names in zip(got, chain, strict=True)
    )
    if got != wanted.sent and not whole:
        shown = " < ".join(wanted.sent) or "none, or this gateway"
        raise _refused("act", shown, " < ".join(got), "other agents")
    return "grant" if whole and got else "audit-only"


def _acts(claims: Mapping[str, Any], rules: ExternalRules) -> tuple[str, ...]:
    """The agents in `act`, outermost first, less ourselves in front."""
    issuers = (None, rules.issuer, rules.first_issuer, rules.public_url)
    found: list[str] = []
    act = claims.get("act")
    while act is not None:
        if not isinstance(act, dict) or not isinstance(act.get("sub"), str) or len(found) > 16:
            raise _refused("act", "nested objects with sub", "something else")
        if act.get("iss") not in issuers:
            raise _refused("act", rules.issuer, act.get("iss"), "agents of another issuer")
        found.append(act["sub"])
        act = act.get("act")
    if found and found[0] in (rules.client_id, rules.public_url):
        found = found[1:]
    return tuple(found)


def _issued_types(rules: ExternalRules, is_grant: bool) -> tuple[str, ...]:
    if is_grant and rules.grant in TWO_STEPS:
        return (ID_JAG,) if rules.grant == "id-jag" else (JWT,)
    return (ACCESS_TOKEN, JWT)


def _seconds(value: Any) -> int | None:
    # Some servers write the number as a string.
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 10:
        value = int(value)
    if value is not None and (type(value) is not int or value <= 0):
        raise _refused("expires_in", "seconds", value)
    return value


def _refused(member: str, wanted: object, got: object, what: str = "") -> AnswerRefused:
    text = what or f"a {member} that was not asked for"
    difference = {"member": member, "expected": _shown(wanted), "got": _shown(got)}
    return AnswerRefused(f"its authorization server answered with {text}", difference)


def _shown(value: object) -> object:
    """A value of theirs as a record may keep it: short, and never a whole token."""
    if value is None or type(value) in (int, bool):
        return value
    text = value if isinstance(value, str) else type(value).__name__
    if text.startswith("ey") and "." in text:
        return "something like a token"
    return "".join(c if c.isprintable() else "?" for c in text[:SHOWN])
