"""How a user's account at a tool server's own authorization server is found, asked for and judged.

We are an OAuth client here (OAuth 2.1, MCP authorization 2025-11-25 and 2026-07-28). Every document and
answer is somebody else's word: what it may make us do is decided here, what is fetched elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from agentgw.core.external_answer import ERRORS
from agentgw.errors import UpstreamFailed

MOST_SCOPES = 50
LONGEST_SCOPE = 2048
"""Characters of all scopes together: what a server demands must fit a URL."""

TOKEN_LIMIT = 16 * 1024
LONGEST_LIFE = 366 * 86_400

_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,256}")
_PARAMETER = re.compile(
    r'(?<![A-Za-z0-9_-])([A-Za-z0-9_-]++)\s*+=\s*+(?:"((?:[^"\\]|\\.)*+)"|([^\s",]++))'
)
"""Begins at words only and takes nothing back, so that a long header takes no longer than its length."""
_SCHEME = re.compile(r"(?:^|,)\s*bearer\s+(?=[A-Za-z0-9_-]+\s*=)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a 401 or 403 says would help (RFC 6750 section 3, RFC 9728 section 5.1)."""

    metadata: str | None = None
    scopes: frozenset[str] = frozenset()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Resource:
    """A protected resource's own metadata, as far as we use it (RFC 9728 section 2)."""

    issuers: tuple[str, ...]
    scopes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Endpoints:
    """An authorization server's metadata, as far as we use it (RFC 8414 section 2)."""

    issuer: str
    authorize: str
    token: str
    says_iss: bool
    takes_documents: bool
    revoke: str | None = None


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a token endpoint gave: `scopes` is None where it said nothing, `exp` in Unix seconds is None
    where it did not say when the token ends."""

    access: str = field(repr=False)
    refresh: str | None = field(repr=False)
    scopes: frozenset[str] | None
    exp: int | None


def read_challenge(header: str | None) -> Challenge:
    """The Bearer challenge of a WWW-Authenticate value; an empty one where there is none."""
    found = None if header is None else _SCHEME.search(header)
    if header is None or found is None:
        return Challenge()
    pairs = _PARAMETER.findall(header[found.end() : found.end() + 8192])
    said: dict[str, str] = {}
    for name, quoted, bare in pairs:
        said.setdefault(name.lower(), re.sub(r"\\(.)", r"\1", quoted) if quoted else bare)
    return Challenge(
        said.get("resource_metadata"), scopes_in(said.get("scope", "")), said.get("error")
    )


def resource_metadata_urls(resource: str, challenge: Challenge) -> tuple[str, ...]:
    """Where the metadata of `resource` may lie, in the order to ask (MCP authorization; RFC 9728 3.1)."""
    parts = urlsplit(resource)
    root = f"{parts.scheme}://{parts.netloc}/.well-known/oauth-protected-resource"
    path, query = parts.path.rstrip("/"), f"?{parts.query}" if parts.query else ""
    urls = [challenge.metadata, root + path + query, root]
    return tuple(dict.fromkeys(url for url in urls if url))


def read_resource(document: Any, resource: str) -> Resource:
    """The metadata of just this resource. Raises UpstreamFailed, also where it names another."""
    named = document.get("resource") if isinstance(document, dict) else None
    if not isinstance(named, str) or _canonical(named) != _canonical(resource):
        raise UpstreamFailed("its metadata is that of another resource than its URL")
    issuers = document.get("authorization_servers")
    if not isinstance(issuers, list) or not issuers or len(issuers) > 20:
        raise UpstreamFailed("its metadata names no authorization server")
    if not all(isinstance(issuer, str) and issuer for issuer in issuers):
        raise UpstreamFailed("its metadata names authorization servers that are no URLs")
    supported = document.get("scopes_supported")
    words = supported if isinstance(supported, list) else []
    return Resource(tuple(issuers), frozenset(w for w in words if _is_scope(w)))


def issuer_of(resource: Resource, configured: str | None) -> str:
    """The one authorization server to use. Raises UpstreamFailed where the configured one is not named, or
    what is named cannot be asked."""
    if configured is None:
        if not _is_endpoint(resource.issuers[0]):
            raise UpstreamFailed("its metadata names an authorization server that is no URL")
        return resource.issuers[0]
    if not any(configured in _spelled(issuer) for issuer in resource.issuers):
        raise UpstreamFailed("it takes tokens of another authorization server than the configured")
    return configured


def server_metadata_urls(issuer: str) -> tuple[str, ...]:
    """Where an issuer's metadata may lie, in the order MCP asks for (RFC 8414 3.1, OIDC Discovery 4)."""
    parts = urlsplit(issuer)
    root, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    urls = (
        f"{root}/.well-known/oauth-authorization-server{path}",
        f"{root}/.well-known/openid-configuration{path}",
        f"{root}{path}/.well-known/openid-configuration",
    )
    return tuple(dict.fromkeys(urls))


def read_endpoints(document: Any, issuer: str) -> Endpoints:
    """The metadata of just this issuer, as it spells itself. Raises UpstreamFailed for what a client must
    not go on with."""
    named = document.get("issuer") if isinstance(document, dict) else None
    if not isinstance(named, str) or named not in _spelled(issuer):
        raise UpstreamFailed("its authorization server's metadata is that of another issuer")
    methods = document.get("code_challenge_methods_supported")
    if not isinstance(methods, list) or "S256" not in methods:
        raise UpstreamFailed("its authorization server does not say that it does PKCE with S256")
    found = {}
    for name in ("authorization_endpoint", "token_endpoint"):
        url = document.get(name)
        if not isinstance(url, str) or not _is_endpoint(url):
            raise UpstreamFailed(f"its authorization server's metadata has no usable {name}")
        found[name] = url
    revoke = document.get("revocation_endpoint")
    return Endpoints(
        named,
        found["authorization_endpoint"],
        found["token_endpoint"],
        document.get("authorization_response_iss_parameter_supported") is True,
        document.get("client_id_metadata_document_supported") is True,
        revoke if isinstance(revoke, str) and _is_endpoint(revoke) else None,
    )


def scopes_to_ask(
    held: Iterable[str], demanded: Iterable[str], configured: str | None, supported: Iterable[str]
) -> frozenset[str]:
    """What to ask for: the union of what is held and demanded, so that stepping up takes nothing away.

    Where nothing is held or demanded, the configured scope, else what the server's metadata names.
    Raises UpstreamFailed where a server demands without bounds.
    """
    wanted = frozenset(held) | frozenset(demanded) | frozenset((configured or "").split())
    wanted = wanted or frozenset(supported)
    if len(wanted) > MOST_SCOPES or sum(map(len, wanted)) > LONGEST_SCOPE:
        raise UpstreamFailed("it demands more scopes than anybody could agree to")
    return wanted


def authorization_url(
    endpoints: Endpoints,
    *,
    client_id: str,
    redirect_uri: str,
    state: str,
    code_challenge: str,
    resource: str,
    scopes: frozenset[str],
) -> str:
    """Where the browser goes (RFC 6749 section 4.1.1, RFC 7636 section 4.3, RFC 8707 section 2)."""
    query = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": redirect_uri,
        "state": state,
        "code_challenge": code_challenge,
        "code_challenge_method": "S256",
        "resource": resource,
    }
    if scopes:
        query["scope"] = " ".join(sorted(scopes))
    if "offline_access" in scopes:
        # OpenID Connect Core section 11: without it many servers give no refresh token.
        query["prompt"] = "consent"
    joint = "&" if urlsplit(endpoints.authorize).query else "?"
    return endpoints.authorize + joint + urlencode(query)


def code_of(query: str, issuer: str, says_iss: bool) -> str:
    """The code of an answer of just this issuer. Raises UpstreamFailed.

    RFC 9207 section 2.4: `iss` must be the issuer we went to, and be there where that says it is.
    """
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=20)
    except ValueError:
        raise UpstreamFailed("its authorization server's answer cannot be read") from None
    said = dict(pairs)
    if len(said) != len(pairs):
        raise UpstreamFailed("its authorization server's answer says something twice")
    if "iss" in said and said["iss"] != issuer:
        raise UpstreamFailed("the answer is that of another authorization server")
    if says_iss and "iss" not in said:
        raise UpstreamFailed("the answer does not say which authorization server it is from")
    if "error" in said:
        known = said["error"] if said["error"] in ERRORS else "an unknown error"
        raise UpstreamFailed(f"its authorization server refused: {known}")
    if not said.get("code") or len(said["code"]) > 4096:
        raise UpstreamFailed("the answer holds no code")
    return said["code"]


def code_request(code: str, redirect_uri: str, verifier: str, resource: str) -> dict[str, str]:
    """The form that redeems a code (RFC 6749 section 4.1.3, RFC 7636 section 4.5)."""
    return {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": redirect_uri,
        "code_verifier": verifier,
        "resource": resource,
    }


def refresh_request(refresh_token: str, resource: str) -> dict[str, str]:
    """The form that refreshes (RFC 6749 section 6)."""
    return {
        "grant_type": "refresh_token",
        "refresh_token": refresh_token,
        "resource": resource,
    }


def revoke_request(token: str, hint: str) -> dict[str, str]:
    """The form that gives a token up (RFC 7009 section 2.1)."""
    return {"token": token, "token_type_hint": hint}


class GrantSpent(UpstreamFailed):
    """The authorization server says that a code or refresh token is good for nothing (`invalid_grant`)."""


def read_tokens(status: int, document: Any, now: float) -> Tokens:
    """The tokens of an answer (RFC 6749 section 5). Raises GrantSpent or UpstreamFailed."""
    if not isinstance(document, dict):
        raise UpstreamFailed("its authorization server answered no JSON object")
    if status != 200 or "error" in document:
        code = document.get("error")
        known = code if isinstance(code, str) and code in ERRORS else f"with status {status}"
        kind = GrantSpent if code == "invalid_grant" else UpstreamFailed
        raise kind(f"its authorization server refused: {known}")
    kind_of = document.get("token_type")
    if not isinstance(kind_of, str) or kind_of.lower() != "bearer":
        raise UpstreamFailed("its authorization server gave a token that is none for bearers")
    access = _token(document.get("access_token"))
    refresh = document.get("refresh_token")
    scope, life = document.get("scope"), document.get("expires_in")
    if isinstance(life, str) and life.isascii() and life.isdecimal() and len(life) < 10:
        life = int(life)
    if life is not None and (type(life) is not int or not 0 < life <= LONGEST_LIFE):
        raise UpstreamFailed("its authorization server gave a token of no sensible life")
    if scope is not None and not isinstance(scope, str):
        raise UpstreamFailed("its authorization server gave scopes that are no string")
    return Tokens(
        access,
        None if refresh is None else _token(refresh),
        None if scope is None else scopes_in(scope),
        None if life is None else int(now) + life,
    )


def redirect_uri(public_url: str, server: str) -> str:
    """Where an authorization server sends a user back who connects at the tool server `server`.

    One for each, since not all say `iss`: an answer to another's question does not arrive (RFC 9700
    section 4.4.2.2).
    """
    return f"{public_url}/oauth/connect/callback/{server}"


def client_document(public_url: str, servers: Iterable[str]) -> dict[str, object]:
    """Our own client metadata, which is our client_id at servers that take documents (CIMD draft).

    `servers` are the tool servers at which users connect.
    """
    return {
        "client_id": f"{public_url}/oauth/client.json",
        "client_name": "agentgw",
        "client_uri": public_url,
        "redirect_uris": [redirect_uri(public_url, server) for server in sorted(servers)],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "application_type": "web",
        "token_endpoint_auth_method": "private_key_jwt",
        "token_endpoint_auth_signing_alg": "ES256",
        "jwks_uri": f"{public_url}/oauth/client.jwks.json",
    }


def facts_of(
    issuer: str, resource: str, scopes: Iterable[str], exp: int | None
) -> Mapping[str, Any]:
    """What records keep of a credential: never the token, nor anything that could be made into it."""
    scope = " ".join(sorted(scopes)) or None
    return {"iss": issuer, "jti_hash": None, "aud": resource, "scope": scope, "exp": exp}


def scopes_in(text: str) -> frozenset[str]:
    """The well-formed scope tokens of a string (RFC 6749 section 3.3)."""
    return frozenset(word for word in text.split(" ") if _is_scope(word))


def _is_scope(word: object) -> bool:
    return isinstance(word, str) and _SCOPE.fullmatch(word) is not None


def _token(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= TOKEN_LIMIT:
        raise UpstreamFailed(f"its authorization server gave no token of {TOKEN_LIMIT} bytes")
    if not value.isascii() or not value.isprintable() or " " in value:
        raise UpstreamFailed("its authorization server gave something that is no token")
    return value


def _is_endpoint(url: str) -> bool:
    """Absolute, http or https, without user name or fragment; whether it may be asked is the guard's."""
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in url
    except ValueError:
        return False
    return sound and not parts.fragment and url.isascii() and url.isprintable() and " " not in url


def _spelled(issuer: str) -> tuple[str, ...]:
    """How an issuer that a resource names may spell itself: exactly so, or without the slash that URL
    libraries, the MCP SDK's among them, put behind a bare host (RFC 3986 section 6.2.3)."""
    bare = issuer.endswith("/") and issuer.count("/") == 3 and "?" not in issuer
    return (issuer, issuer[:-1]) if bare else (issuer,)


def _canonical(url: str) -> str:
    """Scheme and host in lower case, no default port, no trailing slash (RFC 3986 section 6.2)."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return ""
    default = {"http": 80, "https": 443}.get(parts.scheme)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    where = host if port in (None, default) else f"{host}:{port}"
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{where}{parts.path.rstrip('/')}{query}#{parts.fragment}"
