"""The issuers that are asked about tokens, from the configuration."""

from __future__ import annotations

from collections.abc import Mapping

from agentgw.app.outbound import HttpClients
from agentgw.config.model import Config
from agentgw.identity.introspection import Introspection


def introspectors(
    config: Config, http: HttpClients
) -> tuple[Mapping[str, Introspection], tuple[str, Introspection] | None]:
    """By alias, those asked about JWTs; and the one asked about opaque tokens, with its alias, if any."""
    jwts: dict[str, Introspection] = {}
    opaque = None
    for alias, issuer in config.issuers.items():
        asked = issuer.introspection
        if asked is None:
            continue
        introspection = Introspection(
            issuer.issuer,
            http.of(issuer.issuer, asked.endpoint),
            asked.client_id,
            asked.client_secret.get_secret_value(),
            endpoint=asked.endpoint,
            dev=config.dev,
        )
        if asked.tokens in ("jwt", "all"):
            jwts[alias] = introspection
        if asked.tokens in ("opaque", "all"):
            opaque = (alias, introspection)
    return jwts, opaque
