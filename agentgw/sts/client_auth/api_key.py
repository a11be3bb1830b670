"""API keys: a random secret of our making, of which the file holds a digest only.

Good for one thing, getting a token at the token endpoint. A key has 256 random bits, so a plain
SHA-256 of it cannot be guessed back; a slow hash would protect a password, and this is none.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable

from agentgw.core.canonical import b64url
from agentgw.core.client_credentials import API_KEY_PREFIX

DIGEST = r"^sha-256:[A-Za-z0-9_-]{43}$"


def new_api_key(random: Callable[[int], bytes]) -> str:
    """A fresh key; `random` gives that many bytes."""
    return API_KEY_PREFIX + b64url(random(32))


def digest_of(key: str) -> str:
    """What the file keeps of a key: `sha-256:` and base64url."""
    return "sha-256:" + b64url(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest())


def is_one_of(key: str, digests: Iterable[str]) -> bool:
    """Whether `key` is an API key with one of these digests."""
    own = digest_of(key).encode()
    # All are compared, so that the time taken tells nothing of which.
    found = [hmac.compare_digest(own, digest.encode()) for digest in digests]
    return key.startswith(API_KEY_PREFIX) and any(found)
