"""What a client says of itself: a document at its `client_id`, or a registration request.

Members of RFC 7591 section 2, in two forms: a client ID metadata document (CIMD,
draft-ietf-oauth-client-id-metadata-document-01), fetched from the https URL that is the `client_id`, and
dynamic registration (RFC 7591). Nothing of it is believed but where users may be sent back to; what is shown
to people is shown as the client's own word.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from agentgw.core.addresses import names_loopback, refused_url
from agentgw.core.redirect_uri import is_redirect_uri

NAME_LIMIT = 80
URIS_LIMIT = 20
CLIENT_ID_LIMIT = 1000

_PATH = re.compile(r"(/[A-Za-z0-9\-._~!$&'()*+,;=:@]*)+")
KEYED = "private_key_jwt"
KEYS_LIMIT = 20
_SECRETS = ("client_secret", "client_secret_expires_at")
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\ufe00-\ufe0f\U000e0100-\U000e01ef]"
)
"""Letters and marks that show nothing (Unicode's default ignorables), and the blank of braille."""


class WrongMetadata(ValueError):
    """Metadata that cannot be used; `error` is its code of RFC 7591 section 3.2.2. Its text is a clause that
    is safe to show."""

    def __init__(self, error: str, reason: str) -> None:
        super().__init__(reason)
        self.error = error


@dataclass(frozen=True, slots=True)
class ClientMetadata:
    """A client's own word: `name` is to be shown, `redirect_uris` are where its users may be sent.

    `public` has no credentials. Others prove themselves (private_key_jwt) with one of the public `keys`, or
    of those to be fetched from `jwks_uri`.
    """

    name: str
    redirect_uris: tuple[str, ...]
    public: bool = True
    keys: tuple[Mapping[str, Any], ...] = ()
    jwks_uri: str | None = None


def is_metadata_url(client_id: str, plain_http: bool = False) -> bool:
    """Whether a `client_id` is the URL of a client's document: https with a path, without query, fragment,
    user name, dot segments or anything that could be written in two ways.

    `plain_http` admits http on loopback, for development.
    """
    if len(client_id) > CLIENT_ID_LIMIT or not _may_be_asked(client_id, plain_http):
        return False
    parts = urlsplit(client_id)
    segments = parts.path.split("/")
    return (
        parts.netloc == parts.netloc.lower()
        and "?" not in client_id
        and parts.path not in ("", "/")
        and _PATH.fullmatch(parts.path) is not None
        and "." not in segments
        and ".." not in segments
    )


def matches(client_id: str, pattern: str) -> bool:
    """Whether a pattern of the operator's covers the URL: the URL itself, what begins with the part before a
    final `*`, or `*` alone for all."""
    if pattern.endswith("*"):
        return client_id.startswith(pattern.removesuffix("*"))
    return client_id == pattern


def read_document(document: Any, url: str, plain_http: bool = False) -> ClientMetadata:
    """The metadata that was found at `url`; `plain_http` as for `is_metadata_url`. Raises WrongMetadata."""
    members = _members(document)
    if members.get("client_id") != url:
        raise _wrong("its client_id is not the URL it was found at")
    for name in _SECRETS:
        if name in members:
            raise _wrong("it holds a secret, which everybody can read there")
    # Of the RFC's defaults ours differ: whoever names no method means none.
    method = members.get("token_endpoint_auth_method", "none")
    if method not in ("none", KEYED):
        raise _wrong(f"its token_endpoint_auth_method is neither none nor {KEYED}")
    found = _read(members, named=True)
    keys = _public_keys(members)
    if method == "none":
        return found
    uri = members.get("jwks_uri")
    if (uri is None) == (not keys):
        raise _wrong("it needs exactly one of jwks and jwks_uri, with a key, for private_key_jwt")
    if uri is not None and (not isinstance(uri, str) or not _may_be_asked(uri, plain_http)):
        raise _wrong("its jwks_uri is no https URL that may be asked")
    return replace(found, public=False, keys=keys, jwks_uri=uri)


def read_registration(document: Any) -> ClientMetadata:
    """The metadata of a registration request (RFC 7591 section 3.1). Raises WrongMetadata."""
    members = _members(document)
    if members.get("token_endpoint_auth_method", "none") != "none":
        raise _wrong("its token_endpoint_auth_method must be none: only public clients register")
    return _read(members, named=False)


def _members(document: Any) -> Mapping[str, Any]:
    if not isinstance(document, dict):
        raise _wrong("it is no JSON object")
    return document


def _public_keys(members: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """The keys in `jwks`, whoever uses them; private ones have no place in a document."""
    if "jwks" not in members:
        return ()
    jwks = members["jwks"]
    keys = jwks.get("keys") if isinstance(jwks, dict) else None
    if not isinstance(keys, list) or len(keys) > KEYS_LIMIT:
        raise _wrong(f"its jwks is no JWK Set of at most {KEYS_LIMIT} keys")
    for key in keys:
        if not isinstance(key, dict) or key.get("kty") == "oct" or "d" in key or "k" in key:
            raise _wrong("its jwks holds something that is no public key")
    return tuple(keys)


def _may_be_asked(url: str, plain_http: bool) -> bool:
    return refused_url(url, plain_http and names_loopback(url)) is None


def _read(members: Mapping[str, Any], named: bool) -> ClientMetadata:
    _only("grant_types", members, ("authorization_code", "refresh_token", _DEVICE))
    _only("response_types", members, ("code",))
    uris = members.get("redirect_uris")
    if not isinstance(uris, list) or not 0 < len(uris) <= URIS_LIMIT:
        raise _redirect(f"redirect_uris must be a list of 1 to {URIS_LIMIT} URIs")
    if not all(isinstance(uri, str) and is_redirect_uri(uri) and _own(uri) for uri in uris):
        raise _redirect(
            "a redirect URI must be https, http on loopback, or of a scheme named like a domain of the "
            "client's (com.example.app:/callback)"
        )
    name = members.get("client_name")
    if name is None and not named:
        name = "an unnamed client"
    if not isinstance(name, str) or not (shown := readable(name)):
        raise _wrong("its client_name is missing or cannot be shown")
    return ClientMetadata(shown, tuple(dict.fromkeys(uris)))


_DEVICE = "urn:ietf:params:oauth:grant-type:device_code"


def _only(member: str, members: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """A list of which at least one is offered here; what is not offered is not used."""
    values = members.get(member, [known[0]])
    if not isinstance(values, list) or not any(value in known for value in values):
        raise _wrong(f"its {member} name nothing that is offered here")


def readable(name: str) -> str:
    """A name without what moves, hides or imitates text: control and format characters, long blanks."""
    kept = "".join(
        character
        for character in _UNSEEN.sub("", unicodedata.normalize("NFKC", name))
        if character == " " or not unicodedata.category(character).startswith(("C", "Z"))
    )
    return " ".join(kept.split())[:NAME_LIMIT].strip()


def _own(uri: str) -> bool:
    """A private-use scheme is a domain of the client's, reversed, so that it cannot be another's by chance
    (RFC 8252 section 7.1)."""
    scheme = uri.partition(":")[0]
    return scheme in ("http", "https") or "." in scheme


def _wrong(reason: str) -> WrongMetadata:
    return WrongMetadata("invalid_client_metadata", reason)


def _redirect(reason: str) -> WrongMetadata:
    return WrongMetadata("invalid_redirect_uri", reason)
