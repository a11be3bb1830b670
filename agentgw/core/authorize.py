"""What a client asks at the authorization endpoint, and who is told where that is wrong.

RFC 6749 section 4.1.1 as RFC 9700 and OAuth 2.1 narrow it: code flow only, PKCE with S256 always (RFC 7636),
redirect URIs to the letter, every parameter once, `iss` in every answer (RFC 9207). Until client and
redirect URI are known to belong together, a wrong request is shown to the user and goes nowhere.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from agentgw.core.exchange_request import parse_scope
from agentgw.core.oauth_client import OAuthClient
from agentgw.core.redirect_uri import is_loopback_redirect, redirects_to, with_answer
from agentgw.errors import CallerError, OAuthError

REQUEST_URN = "urn:ietf:params:oauth:request_uri:"
"""What a pushed request's `request_uri` begins with (RFC 9126 section 2.2)."""
CLIENT_ID_LIMIT = 1000
STATE_LIMIT = 1024
PROMPTS = frozenset({"none", "login", "consent", "select_account"})
PARAMETERS = frozenset({
    "client_id", "redirect_uri", "response_type", "response_mode", "state", "resource", "scope", "prompt",
    "code_challenge", "code_challenge_method", "dpop_jkt",
})  # fmt: skip
"""What of a request says anything here. All else is passed over, and need not be kept."""

_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")
_THUMBPRINT = _CHALLENGE
_PRINTABLE = re.compile(r"[\x20-\x7e]*")
_FIELDS = 50


class Shown(CallerError):
    """A request that is wrong in a way that only its user may be told: nobody is sent anywhere.

    `reason` is a clause that is safe to show.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class SentBack(CallerError):
    """A request that is wrong, or refused, in a way that its client is told (RFC 6749 section 4.1.2.1).

    `location` is the redirect with the error, `error` its code and `description` its words. `by_itself`
    tells whether the browser may follow it without its user, who otherwise is asked: anybody could have
    registered there what they like, and our address would lend it trust (RFC 9700 section 4.11.2).
    """

    def __init__(self, location: str, error: str, description: str, by_itself: bool) -> None:
        super().__init__(description)
        self.location = location
        self.by_itself = by_itself
        self.error = error
        self.description = description


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """A request that is right. `resource` is the one of ours it is for, `scopes` None where it named none.

    `challenge` is the S256 code challenge, `jkt` the key that must redeem the code (RFC 9449 section 10).
    """

    client_id: str
    redirect_uri: str
    challenge: str
    resource: str
    scopes: frozenset[str] | None
    state: str | None
    prompt: frozenset[str]
    jkt: str | None = None


def read_query(query: bytes) -> dict[str, str]:
    """The parameters of a query string, each once; those without a value count as absent. Raises Shown."""
    try:
        pairs = parse_qsl(
            query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_FIELDS
        )
    except ValueError:
        raise Shown("its parameters cannot be read") from None
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise Shown("it has a parameter twice")
    return {name: value for name, value in pairs if value}


def client_id_of(params: Mapping[str, str]) -> str:
    """Which client asks. Raises Shown."""
    client_id = params.get("client_id", "")
    if not client_id or len(client_id) > CLIENT_ID_LIMIT or not _PRINTABLE.fullmatch(client_id):
        raise Shown("it names no client")
    return client_id


def pushed_key(params: Mapping[str, str]) -> str | None:
    """The secret part of a pushed request's `request_uri`; None for a request in the open. Raises Shown."""
    uri = params.get("request_uri")
    if uri is None:
        return None
    if not uri.startswith(REQUEST_URN) or not _CHALLENGE.fullmatch(uri.removeprefix(REQUEST_URN)):
        raise Shown("its request_uri was not given out here")
    return uri.removeprefix(REQUEST_URN)


def judge_request(
    params: Mapping[str, str], client: OAuthClient, issuer: str, resources: Collection[str]
) -> AuthorizationRequest:
    """The request that single-valued parameters of `client` make. Raises Shown, then SentBack.

    `issuer` is our own identifier, `resources` are our resource URLs.
    """
    redirect_uri = params.get("redirect_uri", "")
    if not redirects_to(redirect_uri, client.redirect_uris):
        raise Shown("its redirect_uri is not one that this client registered")
    try:
        return _judge(params, redirect_uri, issuer, resources)
    except OAuthError as error:
        state, by_itself = params.get("state"), is_trusted(client, redirect_uri)
        raise send_back(
            redirect_uri, state, issuer, error.error, error.description, by_itself
        ) from None


def send_back(
    redirect_uri: str,
    state: str | None,
    issuer: str,
    error: str,
    description: str,
    by_itself: bool,
) -> SentBack:
    """The refusal of a request whose client and redirect URI belong together."""
    answer = {"error": error, "error_description": description, **_common(state, issuer)}
    return SentBack(with_answer(redirect_uri, answer), error, description, by_itself)


def is_trusted(client: OAuthClient, redirect_uri: str) -> bool:
    """Whether users may be sent to a redirect URI though they have answered nothing: the operator named
    it, or it stays on their own computer."""
    return client.kind == "registered" or is_loopback_redirect(redirect_uri)


def code_answer(request: AuthorizationRequest, issuer: str, code: str) -> str:
    """Where the browser goes with its code (RFC 6749 section 4.1.2, RFC 9207 section 2)."""
    answer = {"code": code, **_common(request.state, issuer)}
    return with_answer(request.redirect_uri, answer)


def resource_asked(value: str | None, issuer: str, resources: Collection[str]) -> str:
    """The one resource of ours that is asked for (RFC 8707), `/mcp` where none is. Raises OAuthError."""
    resource = f"{issuer}/mcp" if value is None else value
    if resource not in resources:
        raise OAuthError("invalid_target", "the resource is none of this gateway")
    return resource


def _common(state: str | None, issuer: str) -> dict[str, str]:
    # A state that is too long to take is too long to give back.
    kept = {} if state is None or len(state) > STATE_LIMIT else {"state": state}
    return {**kept, "iss": issuer}


def _judge(
    params: Mapping[str, str], redirect_uri: str, issuer: str, resources: Collection[str]
) -> AuthorizationRequest:
    if "request" in params:
        raise OAuthError("request_not_supported", "request objects are not taken here")
    if "request_uri" in params:
        raise OAuthError("request_uri_not_supported", "a pushed request names no other")
    if params.get("response_type") != "code":
        missing = "response_type" not in params
        raise OAuthError(
            "invalid_request" if missing else "unsupported_response_type",
            "response_type must be code",
        )
    if params.get("response_mode", "query") != "query":
        raise _invalid("response_mode must be query")
    state = params.get("state")
    if state is not None and (len(state) > STATE_LIMIT or not _PRINTABLE.fullmatch(state)):
        raise _invalid(f"state must be at most {STATE_LIMIT} printable ASCII characters")
    resource = resource_asked(params.get("resource"), issuer, resources)
    return AuthorizationRequest(
        client_id_of(params),
        redirect_uri,
        _challenge(params),
        resource,
        parse_scope(params.get("scope")),
        state,
        _prompt(params.get("prompt")),
        _jkt(params.get("dpop_jkt")),
    )


def _challenge(params: Mapping[str, str]) -> str:
    """The code challenge (RFC 7636 section 4.3). `plain` is refused, and so is its being left out."""
    challenge = params.get("code_challenge")
    if challenge is None:
        raise _invalid("code_challenge is missing: PKCE is needed")
    if params.get("code_challenge_method") != "S256":
        raise _invalid("code_challenge_method must be S256")
    if not _CHALLENGE.fullmatch(challenge):
        raise _invalid("code_challenge is no SHA-256 in base64url")
    return challenge


def _prompt(value: str | None) -> frozenset[str]:
    prompts = frozenset(() if value is None else value.split(" "))
    if not prompts <= PROMPTS or ("none" in prompts and len(prompts) > 1):
        raise _invalid("prompt must be none, or of login, consent and select_account")
    return prompts


def _jkt(value: str | None) -> str | None:
    if value is not None and not _THUMBPRINT.fullmatch(value):
        raise _invalid("dpop_jkt is no JWK thumbprint")
    return value


def _invalid(description: str) -> OAuthError:
    return OAuthError("invalid_request", description)
