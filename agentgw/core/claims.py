"""What the claims of a verified token say: pure rules over parsed JSON, one per question.

Every function raises InvalidToken with a reason that holds no part of the token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from agentgw.core.principal import Caller, Subject
from agentgw.errors import InvalidToken

LEEWAY = 60
MAX_LIFE = 86_400
MIN_LIFE = 5
NAME_LIMIT = 255

_ID_OR_LOGOUT = ("nonce", "at_hash", "c_hash", "events")
_ACCESS_TYPES = frozenset({"bearer", "access", "access_token", "accesstoken", "at+jwt", "jwt"})
_ANY = "*"


@dataclass(frozen=True, slots=True)
class IssuerRules:
    """One configured issuer: what of its tokens we believe.

    `audiences` maps an `aud` value to those of our resource URLs it stands for (see map_audiences).
    `subject` is `qualified` (users are `alias|sub`) or `plain`. `require_typ` is None (`at+jwt` or
    `JWT`) or `at+jwt`. `marker` maps a claim to the value that marks an access token of this issuer
    (`*`: any); without one, a token typed `JWT` must say `typ: Bearer` or `token_use: access`, or
    carry a scope. `algorithms` empty means all we accept.
    """

    alias: str
    issuer: str
    audiences: Mapping[str, frozenset[str]]
    tolerated_audiences: frozenset[str] = frozenset()
    groups_claim: str | None = None
    subject: str = "qualified"
    user_claim: str | None = None
    email_domains: frozenset[str] = frozenset()
    may_assert_act: bool = False
    accept_evidence: frozenset[str] = frozenset()
    require_typ: str | None = None
    marker: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    algorithms: frozenset[str] = frozenset()
    jwks_uri: str | None = None


def map_audiences(
    listed: Sequence[str] | Mapping[str, Sequence[str]], public_url: str
) -> Mapping[str, frozenset[str]]:
    """Turn the configured `audiences` into aud value → our resource URLs.

    A list holds values that mean this gateway: one that is a resource URL of ours means that resource,
    any other means `{public_url}/mcp`. A mapping goes from resource URL to values.
    """
    union = f"{public_url}/mcp"
    if isinstance(listed, Mapping):
        pairs = [(value, resource) for resource, values in listed.items() for value in values]
    else:
        pairs = [(value, value if is_resource(value, public_url) else union) for value in listed]
    found: dict[str, frozenset[str]] = {}
    for value, resource in pairs:
        found[value] = found.get(value, frozenset()) | {resource}
    return MappingProxyType(found)


def is_resource(url: str, public_url: str) -> bool:
    """Whether `url` is `{public_url}/mcp` or `{public_url}/mcp/{server}`, to the letter."""
    union = f"{public_url}/mcp"
    server = url.removeprefix(union + "/")
    return url == union or (server != url and bool(server) and "/" not in server)


def admits(caller: Caller, public_url: str, server: str | None) -> bool:
    """Whether the caller's token may be used at `/mcp` (server None) or `/mcp/{server}`.

    A token for `/mcp` works on `/mcp` and every server path, one for a server path there only.
    """
    union = f"{public_url}/mcp"
    if union in caller.resources:
        return True
    return server is not None and f"{union}/{server}" in caller.resources


def check_times(
    claims: Mapping[str, Any],
    now: float,
    leeway: int = LEEWAY,
    max_life: int = MAX_LIFE,
    min_life: int = MIN_LIFE,
) -> int:
    """Check `exp`, `nbf` and `iat` (RFC 7519 section 4.1) and return `exp`; all in Unix seconds.

    `exp` is required and must lie `min_life` ahead; `leeway` forgives clocks for `nbf` and `iat` only,
    since a token about to end cannot finish a call. No token may live longer than `max_life`.
    """
    times = {name: claims[name] for name in ("exp", "nbf", "iat") if name in claims}
    for name, value in times.items():
        if type(value) is not int or value < 0:
            raise InvalidToken(f"the token's {name} is not a whole number of seconds")
    if "exp" not in times:
        raise InvalidToken("the token has no exp, so it would never end")
    expires: int = times["exp"]
    if expires <= now:
        raise InvalidToken("the token has expired")
    if expires - now < min_life:
        raise InvalidToken(f"the token has less than {min_life} seconds left")
    if times.get("nbf", 0) > now + leeway:
        raise InvalidToken("the token is not valid yet")
    if times.get("iat", 0) > now + leeway:
        raise InvalidToken("the token was issued in the future")
    issued = times.get("iat", now + leeway)
    if expires - issued > max_life or expires > now + leeway + max_life:
        raise InvalidToken(f"the token lives longer than {max_life} seconds")
    return expires


def check_kind(claims: Mapping[str, Any], typ: str | None, rules: IssuerRules) -> None:
    """Refuse what is no access token: ID, refresh, logout and foreign kinds (RFC 9068 section 4).

    `typ` is the header's, lower case; without one a token passes only by its issuer's marker. Whether
    the token is bound to a key is asked elsewhere (core/possession.py).
    """
    wanted = {rules.require_typ} if rules.require_typ else {"at+jwt", "jwt"}
    untyped = typ is None and rules.require_typ is None and bool(rules.marker)
    if typ not in wanted and not untyped:
        raise InvalidToken(f"the token's typ header is not {' or '.join(sorted(wanted))}")
    for name in _ID_OR_LOGOUT:
        if name in claims:
            raise InvalidToken(f"the token carries {name}: it is no access token")
    marked = _holds_marker(claims, rules.marker)
    kind = claims.get("typ")
    if kind is not None and not (
        (isinstance(kind, str) and kind.lower() in _ACCESS_TYPES)
        or ("typ" in rules.marker and marked)
    ):
        raise InvalidToken("the token's typ claim names another kind than an access token")
    if claims.get("token_use", "access") not in ("access", "access_token"):
        raise InvalidToken("the token's token_use is not access")
    if rules.marker and not marked:
        raise InvalidToken("the token lacks the access_token_claim configured for its issuer")
    if not rules.marker and typ != "at+jwt" and not _looks_like_access(claims):
        raise InvalidToken(
            "nothing marks the token as an access token: its issuer should send typ at+jwt, "
            "or issuers.*.access_token_claim name a claim that does"
        )


def _holds_marker(claims: Mapping[str, Any], marker: Mapping[str, str]) -> bool:
    for name, value in marker.items():
        held = claims.get(name)
        if held is None or (value != _ANY and value != held):
            return False
    return True


def _looks_like_access(claims: Mapping[str, Any]) -> bool:
    return (
        claims.get("typ") is not None
        or "token_use" in claims
        or isinstance(claims.get("scope"), str)
        or isinstance(claims.get("scp"), (str, list))
    )


def audience_of(claims: Mapping[str, Any]) -> tuple[str, ...]:
    """The `aud` values as strings; at least one (RFC 7519 section 4.1.3)."""
    aud = claims.get("aud")
    values = [aud] if isinstance(aud, str) else aud
    if not isinstance(values, list) or not values:
        raise InvalidToken("the token names no audience")
    if not all(isinstance(value, str) and value for value in values):
        raise InvalidToken("the token's aud holds something else than strings")
    return tuple(values)


def resources_of(claims: Mapping[str, Any], rules: IssuerRules) -> frozenset[str]:
    """Our resource URLs the token is for: every audience must be listed, and one must be ours."""
    resources: frozenset[str] = frozenset()
    for value in audience_of(claims):
        if value in rules.audiences:
            resources |= rules.audiences[value]
        elif value not in rules.tolerated_audiences:
            raise InvalidToken("the token names an audience that is not listed for its issuer")
    if not resources:
        raise InvalidToken("the token is not meant for this gateway")
    return resources


def scopes_of(claims: Mapping[str, Any]) -> frozenset[str]:
    """The scopes: `scope` (RFC 8693 section 4.2), else `scp` as string or list; absent means none."""
    value = claims.get("scope", claims.get("scp"))
    if value is None:
        return frozenset()
    if isinstance(value, str):
        return frozenset(value.split())
    if "scope" not in claims and isinstance(value, list):
        if all(isinstance(item, str) for item in value):
            return frozenset(value)
    raise InvalidToken("the token's scope is not a string of scopes")


def groups_of(claims: Mapping[str, Any], rules: IssuerRules) -> frozenset[str]:
    """The user's groups as `alias:group:NAME`; absent, overflowed or odd claims grant nothing.

    `groups_claim` may be a dotted path (`realm_access.roles`). An overflow is announced by
    `_claim_names` or `hasgroups` (OpenID Connect Core section 5.6.2, Entra ID).
    """
    name = rules.groups_claim
    if name is None or claims.get("hasgroups"):
        return frozenset()
    distributed = claims.get("_claim_names")
    if distributed is not None and not (
        isinstance(distributed, dict) and name.split(".")[0] not in distributed
    ):
        return frozenset()
    found: Any = claims.get(name)
    if found is None:
        found = claims
        for step in name.split("."):
            found = found.get(step) if isinstance(found, dict) else None
    if not isinstance(found, list) or not all(isinstance(item, str) and item for item in found):
        return frozenset()
    return frozenset(f"{rules.alias}:group:{item}" for item in found)


def subject_of(claims: Mapping[str, Any], rules: IssuerRules, public_url: str) -> Subject:
    """Who the token is about: `alias|sub`, or the bare sub of a plain issuer.

    A plain sub may not be spelled like a qualified user, a group, a client, an agent or anything of ours, or
    one issuer could name another's users. A configured `user_claim` that is missing or not vouched
    for refuses the token: falling back to `sub` would mix two name spaces in the grants.
    """
    sub = _name(claims.get("sub"), "sub")
    known_as = None if rules.user_claim is None else _user_claim(claims, rules, rules.user_claim)
    if rules.subject != "plain":
        return Subject(rules.alias, sub, f"{rules.alias}|{sub}", known_as)
    if "|" in sub or ":group:" in sub or sub.startswith(("client:", "agent:", public_url)):
        raise InvalidToken("the token's sub is spelled like a name of another issuer or of ours")
    return Subject(rules.alias, sub, sub, known_as)


def _user_claim(claims: Mapping[str, Any], rules: IssuerRules, name: str) -> str:
    value = _name(claims.get(name), name)
    if name != "email" and not rules.email_domains:
        return value
    if claims.get("email_verified") is not True:
        raise InvalidToken("the token's e-mail address is not verified")
    local, _, domain = value.rpartition("@")
    if not local or "@" in local or domain.lower() not in map(str.lower, rules.email_domains):
        raise InvalidToken("the token's e-mail address is not of a domain listed for its issuer")
    return f"{local}@{domain.lower()}"


def _name(value: Any, claim: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= NAME_LIMIT or not value.isprintable():
        raise InvalidToken(f"the token's {claim} is not 1 to {NAME_LIMIT} printable characters")
    return value
