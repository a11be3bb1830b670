"""What a client asks of the token-exchange grant, parsed at the edge (RFC 8693 section 2.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from agentgw.core.authorization_details import OneTool, parse_details
from agentgw.errors import OAuthError

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - a type, no token
JWT = "urn:ietf:params:oauth:token-type:jwt"

TOKEN_LIMIT = 16 * 1024
"""Characters of a subject_token or actor_token."""

_MAX_SCOPES = 200
_LONGEST_SCOPE = 8 * 1024
"""Characters of a `scope` parameter."""


@dataclass(frozen=True, slots=True)
class ExchangeRequest:
    """A parsed request. `target` is the one resource or audience; `scopes` None means all there are.

    `actor_token` is a client assertion of the authenticated client, where it sent one; `details` the
    one tool the new token shall be for (None: whatever the subject_token is for).
    """

    subject_token: str = field(repr=False)
    target: str
    scopes: frozenset[str] | None
    issued_token_type: str
    actor_token: str | None = field(default=None, repr=False)
    details: OneTool | None = None


def parse_request(form: Mapping[str, str]) -> ExchangeRequest:
    """The request that single-valued, non-empty form parameters make; check 1. Raises OAuthError."""
    _check_grant_type(form)
    token = form.get("subject_token")
    if token is None:
        raise _invalid_request("subject_token is missing")
    _check_size("subject_token", token)
    kind = form.get("subject_token_type")
    if kind not in (ACCESS_TOKEN, JWT):
        raise _invalid_request(f"subject_token_type must be {ACCESS_TOKEN}")
    actor_token = _parse_actor_token(form)
    wanted = form.get("requested_token_type", ACCESS_TOKEN)
    if wanted not in (ACCESS_TOKEN, JWT):
        raise _invalid_request(f"requested_token_type must be {ACCESS_TOKEN}")
    scopes = parse_scope(form.get("scope"))
    details = form.get("authorization_details")
    return ExchangeRequest(
        token,
        parse_target(form),
        scopes,
        wanted,
        actor_token,
        None if details is None else parse_details(details),
    )


def _check_grant_type(form: Mapping[str, str]) -> None:
    grant = form.get("grant_type")
    if grant is None:
        raise _invalid_request("grant_type is missing")
    if grant != GRANT_TYPE:
        raise OAuthError(
            "unsupported_grant_type",
            f"this grant_type is not available here; {GRANT_TYPE} is, and what the metadata lists",
        )


def _parse_actor_token(form: Mapping[str, str]) -> str | None:
    token, kind = form.get("actor_token"), form.get("actor_token_type")
    if token is None and kind is None:
        return None
    if token is None or kind is None:
        raise _invalid_request("actor_token and actor_token_type come together or not at all")
    if kind != JWT:
        raise _invalid_request(
            f"actor_token_type must be {JWT}: the actor is the authenticated client, so an "
            "actor_token can only be another client assertion of its own; leave it out"
        )
    _check_size("actor_token", token)
    return token


def _check_size(name: str, token: str) -> None:
    if len(token) > TOKEN_LIMIT:
        raise _invalid_request(f"the {name} is too large")
    if not token.isascii():
        raise _invalid_request(f"the {name} holds characters that no token has")


def parse_target(form: Mapping[str, str]) -> str:
    """The one target a form names (RFC 8693 section 2.1, RFC 8707 section 2). Raises OAuthError."""
    resource, audience = form.get("resource"), form.get("audience")
    if resource is not None and audience is not None and resource != audience:
        raise OAuthError("invalid_target", "name one target: resource or audience")
    target = resource if resource is not None else audience
    if target is None:
        raise _invalid_request("a target is missing: send resource or audience")
    parts = _split(target)
    if parts is None or not parts[0] or not parts[1] or "#" in target:
        raise OAuthError(
            "invalid_target",
            "the target is no absolute URI without fragment: it is {public_url}/mcp, one server's "
            "{public_url}/mcp/NAME, or for a hand-over the agent's id, {public_url}/a2a/NAME",
        )
    return target


def _split(uri: str) -> tuple[str, str] | None:
    try:
        parts = urlsplit(uri)
    except ValueError:
        return None
    return parts.scheme, parts.netloc


def parse_scope(value: str | None) -> frozenset[str] | None:
    """The scopes of a `scope` parameter, None without one. Raises OAuthError."""
    if value is None:
        return None
    scopes = value.split(" ")
    if (
        len(value) > _LONGEST_SCOPE
        or len(scopes) > _MAX_SCOPES
        or not all(_is_scope(scope) for scope in scopes)
    ):
        raise OAuthError("invalid_scope", "scope is no list of scope tokens (RFC 6749 section 3.3)")
    return frozenset(scopes)


def _is_scope(text: str) -> bool:
    return bool(text) and all("!" <= char <= "~" and char not in '"\\' for char in text)


def _invalid_request(description: str) -> OAuthError:
    return OAuthError("invalid_request", description)
