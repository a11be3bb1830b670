"""What an issuer's answer about a token says (RFC 7662 section 2.2): pure rules over parsed JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentgw.core.claims import IssuerRules
from agentgw.errors import InvalidToken

_LIMITS = (
    "act", "may_act", "cnf", "authorization_details",
    "nonce", "at_hash", "c_hash", "events", "typ", "token_use",
)  # fmt: skip
"""Claims that a token is worth less with: whose it is only, with whom, for what, and which kind it is."""

_ACCESS_TOKEN_TYPES = frozenset({"bearer", "dpop", "access_token"})


def active_claims(answer: Any, issuer: str) -> Mapping[str, Any] | None:
    """The claims of an active token, None for one that is not active.

    `issuer` is who was asked, and stands for an answer that names none. Raises InvalidToken for an
    answer that cannot be meant: no object, no plain `active`, another issuer's token.
    """
    if not isinstance(answer, dict) or type(answer.get("active")) is not bool:
        raise InvalidToken("the answer of the token's issuer does not say whether it is active")
    if not answer["active"]:
        return None
    if answer.get("iss", issuer) != issuer:
        raise InvalidToken("the token's issuer says that another issued it")
    claims = {name: value for name, value in answer.items() if name != "active"}
    return {**claims, "iss": issuer}


def claims_of_jwt(signed: Mapping[str, Any], answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """The claims of a JWT whose issuer was asked about it: those of the answer, which may be all there are.

    Members of an answer are optional (RFC 7662 section 2.2): what limits the token in its own, `signed`
    words holds though the answer leaves it out.
    """
    return {**{name: signed[name] for name in _LIMITS if name in signed}, **answer}


def typ_of_opaque(claims: Mapping[str, Any], rules: IssuerRules) -> str:
    """The `typ` header an opaque token counts as having, for agentgw.core.claims.check_kind.

    Refresh tokens are active as well, so something must mark an access token: a `token_type` as
    RFC 6749 section 7.1 has it, or the configured access_token_claim. Raises InvalidToken.
    """
    kind = claims.get("token_type")
    if isinstance(kind, str) and kind.lower() in _ACCESS_TOKEN_TYPES:
        return "at+jwt"
    if rules.marker:
        return "jwt"
    raise InvalidToken(
        "nothing marks the token as an access token: its issuer should answer with token_type, "
        "or issuers.*.access_token_claim name a claim that marks it"
    )
