"""What a client asks of the token-exchange grant, parsed at the edge (RFC 8693 section 2.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from agentgw.errors import OAuthError

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - a type, no token
JWT = "urn:ietf:params:oauth:token-type:jwt"

_MAX_SCOPES = 200


@dataclass(frozen=True, slots=True)
class ExchangeRequest:
    """A parsed request. `target` is the one resource or audience; `scopes` None means all there are."""

    subject_token: str = field(repr=False)
    target: str
    scopes: frozenset[str] | None
    issued_token_type: str


def parse_request(form: Mapping[str, str]) -> ExchangeRequest:
    """The request that single-valued, non-empty form parameters make. Raises OAuthError."""
    _check_grant_type(form)
    _check_no_actor_token(form)
    _check_no_unsupported_bounds(form)
    token = form.get("subject_token")
    if token is None:
        raise _invalid_request("subject_token is missing")
    kind = form.get("subject_token_type")
    if kind not in (ACCESS_TOKEN, JWT):
        raise _invalid_request(f"subject_token_type must be {ACCESS_TOKEN}")
    wanted = form.get("requested_token_type", ACCESS_TOKEN)
    if wanted not in (ACCESS_TOKEN, JWT):
        raise _invalid_request(f"requested_token_type must be {ACCESS_TOKEN}")
    return ExchangeRequest(token, _parse_target(form), _parse_scope(form.get("scope")), wanted)


def _check_grant_type(form: Mapping[str, str]) -> None:
    grant = form.get("grant_type")
    if grant is None:
        raise _invalid_request("grant_type is missing")
    if grant != GRANT_TYPE:
        raise OAuthError("unsupported_grant_type", f"the one grant_type here is {GRANT_TYPE}")


def _check_no_actor_token(form: Mapping[str, str]) -> None:
    if "actor_token" in form or "actor_token_type" in form:
        raise _invalid_request("leave out actor_token: the actor is the authenticated client")


def _check_no_unsupported_bounds(form: Mapping[str, str]) -> None:
    # Ignoring what asks for less would issue more than was asked for.
    if "authorization_details" in form:
        raise _invalid_request("authorization_details are not supported here")


def _parse_target(form: Mapping[str, str]) -> str:
    resource, audience = form.get("resource"), form.get("audience")
    if resource is not None and audience is not None and resource != audience:
        raise OAuthError("invalid_target", "name one target: resource or audience")
    target = resource if resource is not None else audience
    if target is None:
        raise _invalid_request("a target is missing: send resource or audience")
    parts = _split(target)
    if parts is None or not parts[0] or not parts[1] or "#" in target:
        raise OAuthError("invalid_target", "the target is no absolute URI without fragment")
    return target


def _split(uri: str) -> tuple[str, str] | None:
    try:
        parts = urlsplit(uri)
    except ValueError:
        return None
    return parts.scheme, parts.netloc


def _parse_scope(value: str | None) -> frozenset[str] | None:
    if value is None:
        return None
    scopes = value.split(" ")
    if len(scopes) > _MAX_SCOPES or not all(_is_scope(scope) for scope in scopes):
        raise OAuthError("invalid_scope", "scope is no list of scope tokens (RFC 6749 section 3.3)")
    return frozenset(scopes)


def _is_scope(text: str) -> bool:
    return bool(text) and all("!" <= char <= "~" and char not in '"\\' for char in text)


def _invalid_request(description: str) -> OAuthError:
    return OAuthError("invalid_request", description)
