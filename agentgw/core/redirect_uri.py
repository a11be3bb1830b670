"""Where a client may have its users sent back to: redirect URIs, compared to the letter.

RFC 6749 section 3.1.2 and RFC 9700 section 2.1: equal, character by character. RFC 8252 section 7.3: the
port of a loopback redirect is the client's to choose anew each time. Nothing is decoded, folded or
normalised, and nothing that another parser could read differently is taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import urlencode, urlsplit

URI_LIMIT = 2000

_URI = re.compile(r"([a-z][a-z0-9+.-]*):[A-Za-z0-9\-._~:/?\[\]@!$&'()*+,;=%]+")
_LOOPBACK = re.compile(
    r"http://(127\.0\.0\.1|\[::1\]|localhost)(?::([1-9][0-9]{0,4}))?((?:/[^?]*)?(?:\?.*)?)"
)
_WEB = re.compile(r"https://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[1-9][0-9]{0,4})?(?:[/?].*)?")
"""Whole, so that nothing of a host can mean something else in a header of ours."""
_NEVER = frozenset({
    "about", "blob", "chrome", "chrome-extension", "data", "file", "filesystem", "ftp", "intent",
    "javascript", "mailto", "moz-extension", "resource", "tel", "vbscript", "view-source", "ws", "wss",
})  # fmt: skip
"""Schemes that a browser acts on itself, or hands on to no program of the client's."""


def redirects_to(asked: str, registered: Iterable[str]) -> bool:
    """Whether `asked` is one of the `registered` redirect URIs, at any port where it is loopback.

    `localhost` counts as loopback where it is registered so, since it need not be this machine
    (RFC 8252 section 8.3).
    """
    return is_redirect_uri(asked) and any(_same(asked, one) for one in registered)


def is_redirect_uri(uri: str) -> bool:
    """Whether a redirect URI may be used at all: absolute, without fragment, user or password, and of a
    scheme that leads to the client: https, http on loopback, or one of its own (RFC 8252 section 7.1)."""
    found = _URI.fullmatch(uri)
    if found is None or len(uri) > URI_LIMIT or found[1] in _NEVER:
        return False
    if found[1] == "http":
        return _loopback(uri) is not None
    try:
        parts = urlsplit(uri)
        sound = parts.port is None or parts.port > 0
    except ValueError:
        return False
    if found[1] == "https":
        return sound and _WEB.fullmatch(uri) is not None
    return sound and "@" not in parts.netloc


def is_loopback_redirect(uri: str) -> bool:
    """Whether users are sent to a program on the computer in front of them."""
    return _loopback(uri) is not None


def stays_here(uri: str) -> bool:
    """Whether it is a program on that computer, over loopback or by a scheme of its own."""
    return not uri.startswith("https:")


def redirect_host(uri: str) -> str:
    """Whose a redirect URI is, as people are shown it: its host, or its scheme where that is the client's
    own. What stands for a host there is any word the client likes, the name of another site too."""
    parts = urlsplit(uri)
    web = parts.scheme in ("http", "https")
    return (parts.hostname if web else None) or f"{parts.scheme}:"


def csp_source(uri: str) -> str:
    """The CSP source that lets a form end at this redirect URI (CSP 3 section 2.3.1)."""
    parts = urlsplit(uri)
    # A host-source has no form for IPv6 addresses; schemes without hosts have none at all.
    if parts.scheme not in ("http", "https") or "[" in parts.netloc:
        return f"{parts.scheme}:"
    return f"{parts.scheme}://{parts.netloc}"


def with_answer(uri: str, answer: Mapping[str, str]) -> str:
    """The redirect URI with an authorization response added to its query (RFC 6749 section 4.1.2)."""
    separator = "&" if "?" in uri else "?"
    return f"{uri}{separator}{urlencode(answer)}"


def _same(asked: str, registered: str) -> bool:
    if asked == registered:
        return True
    one, other = _loopback(asked), _loopback(registered)
    return one is not None and one == other


def _loopback(uri: str) -> tuple[str, str] | None:
    """Host and all that stands behind the port, of a loopback redirect URI; None for others."""
    found = _LOOPBACK.fullmatch(uri)
    if found is None or (found[2] is not None and int(found[2]) > 65535):
        return None
    return found[1], found[3]
