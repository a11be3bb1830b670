"""Tokens bound to a key of whoever presents them: `cnf` (RFC 7800), by DPoP or TLS certificate.

A bound token is worth nothing without its proof: presented as a plain bearer token it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentgw.errors import InvalidToken


@dataclass(frozen=True, slots=True)
class Binding:
    """What a token is bound to: `jkt` is the RFC 7638 thumbprint of a DPoP key (RFC 9449 section 6.1),
    `x5t` the SHA-256 thumbprint of a TLS certificate (RFC 8705 section 3.1); base64url, one of the two
    at least."""

    jkt: str | None = None
    x5t: str | None = None


@dataclass(frozen=True, slots=True)
class Presented:
    """What came along with a token in one request: `jkt` of a valid DPoP proof for it, `x5t` of the
    client's TLS certificate; None where there was none."""

    jkt: str | None = None
    x5t: str | None = None


BARE = Presented()
"""A plain bearer token: nothing but the token itself."""


def binding_of(claims: Mapping[str, Any]) -> Binding | None:
    """The binding a token's `cnf` names, None without one. Raises InvalidToken for a kind unknown here:
    a proof that nobody can check must not count as none."""
    if "cnf" not in claims:
        return None
    cnf = claims["cnf"]
    if not isinstance(cnf, dict) or not cnf or not cnf.keys() <= {"jkt", "x5t#S256"}:
        raise InvalidToken("the token is bound to a key (cnf) in a way that is not known here")
    if not all(isinstance(value, str) and value for value in cnf.values()):
        raise InvalidToken("the token's cnf holds no thumbprint")
    return Binding(cnf.get("jkt"), cnf.get("x5t#S256"))


def check_presented(binding: Binding | None, presented: Presented) -> None:
    """Refuse a bound token that came without proof of each key it is bound to. Raises InvalidToken."""
    if binding is None:
        return
    if binding.jkt is not None and binding.jkt != presented.jkt:
        raise InvalidToken(
            "the token is bound to a DPoP key, and no proof by that key came with it"
        )
    if binding.x5t is not None and binding.x5t != presented.x5t:
        raise InvalidToken("the token is bound to a TLS certificate other than the client's")


def token_type(binding: Binding | None) -> str:
    """The `token_type` under which a token is presented (RFC 9449 section 5)."""
    return "Bearer" if binding is None or binding.jkt is None else "DPoP"


def cnf_claim(binding: Binding) -> dict[str, str]:
    """The `cnf` claim of a binding."""
    members = {"jkt": binding.jkt, "x5t#S256": binding.x5t}
    return {name: value for name, value in members.items() if value is not None}


def bound_to(held: Binding | None, require: str | None, presented: Presented) -> Binding | None:
    """What a token issued for what was `presented` is bound to, so that no key is lost on the way.

    `held` is the binding of the token it is issued for. A certificate binds where it did before, or
    where the agent must have one; a DPoP key always does. This is for the presenter's own tokens: a
    hand-over is bound to no key, since its agent authenticates to take it up.
    """
    by_certificate = require == "mtls" or (held is not None and held.x5t is not None)
    x5t = presented.x5t if by_certificate else None
    return None if presented.jkt is None and x5t is None else Binding(presented.jkt, x5t)
