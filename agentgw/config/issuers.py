"""Who vouches for users: the `issuers` section."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, WithJsonSchema

from agentgw.config.values import Section, Text, Url

Algorithm = Literal[
    "ES256", "ES384", "ES512", "EdDSA", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512"
]
ALGORITHMS: tuple[Algorithm, ...] = (
    "ES256", "ES384", "ES512", "EdDSA", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512",
)  # fmt: skip

Evidence = Literal[
    "client-claim",
    "idp-facet",
    "act-claim",
    "consent",
    "client-auth",
    "exchange",
    "receipt",
    "dpop",
    "mtls",
]


def _listed(value: Any) -> Any:
    """A single word where a list of words may stand."""
    return [value] if isinstance(value, str) else value


Values = Annotated[
    tuple[Text, ...],
    Field(min_length=1),
    BeforeValidator(_listed),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1},
                {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1},
            ]
        }
    ),
]
"""One word, or a list of them."""


class Introspection(Section):
    """Asking the issuer about tokens (RFC 7662): no answer, no access. An answer is used for 60 seconds."""

    client_id: Text = Field(description="The gateway's own client at this issuer.")
    client_secret: SecretStr = Field(
        min_length=1, description="Its secret, by reference: ${env:X} or ${file:X}."
    )
    endpoint: Url | None = Field(
        default=None, description="Where to ask, instead of where the issuer's metadata says."
    )
    tokens: Literal["opaque", "jwt", "all"] = Field(
        default="opaque",
        description="Which tokens to ask about: `opaque`, those that are no JWT (one issuer at most); `jwt`, "
        "JWTs too short on claims or to be revoked at the issuer, after their signature; or `all`.",
    )


class Issuer(Section):
    """One OpenID Connect issuer whose access tokens are accepted."""

    issuer: Url = Field(description="The issuer's identifier, exactly as in the tokens' `iss`.")
    audiences: Annotated[tuple[Text, ...], Field(min_length=1)] | Mapping[str, Values] = Field(
        description="Values of `aud` that mean this gateway's /mcp, or one of its resource URLs that means "
        "itself; or a map from resource URL to the values that mean it."
    )
    tolerated_audiences: tuple[Text, ...] = Field(
        default=(), description="Further values of `aud` a token may carry without any effect."
    )
    groups_claim: Text | None = Field(
        default=None,
        description="The claim that lists the user's groups; without it nobody has groups.",
    )
    subject: Literal["plain", "qualified"] = Field(
        default="qualified",
        description="`plain` drops the `alias|` before this issuer's subjects; one issuer may have it.",
    )
    user_claim: Text | None = Field(
        default=None,
        description="A further claim grants may name users by; `email` counts only when verified and of "
        "a listed domain.",
    )
    email_domains: tuple[Text, ...] = Field(
        default=(), description="The mail domains this issuer may speak for."
    )
    may_assert_act: bool = Field(
        default=False,
        description="Whether this issuer's `act` claims are believed; else they are dropped.",
    )
    accept_evidence: tuple[Evidence, ...] = Field(
        default=(),
        description="Weak evidence to accept of an agent: `client-claim` (a bare azp), `client-auth` (the "
        "issuer's word that the client authenticated); others are not available in this version.",
    )
    require_typ: Literal["at+jwt"] | None = Field(
        default=None,
        description="`at+jwt` demands the header of RFC 9068; where absent, JWT passes too.",
    )
    access_token_claim: Mapping[str, Text] = Field(
        default={},
        description="What marks this issuer's access tokens, claim to value (`*`: any); without it a token "
        "whose header is JWT must say typ Bearer or token_use access, or carry a scope, and one whose "
        "header has no typ is refused.",
    )
    algorithms: tuple[Algorithm, ...] = Field(
        default=ALGORITHMS,
        min_length=1,
        description="Signature algorithms accepted of this issuer.",
    )
    id_jag: bool = Field(
        default=False,
        description="Whether agents may redeem this issuer's identity assertions (ID-JAG) at /oauth/token, "
        "by the jwt-bearer grant.",
    )
    jwks_uri: Url | None = Field(
        default=None,
        description="Where the issuer's keys are, instead of asking its discovery document.",
    )
    introspection: Introspection | None = Field(
        default=None, description="Ask this issuer what its tokens are worth."
    )
