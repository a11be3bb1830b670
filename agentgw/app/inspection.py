"""What `agentgw token inspect` needs of a configuration: rules, keys, and what this machine knows."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator

from sqlalchemy import Engine

from agentgw.app import convert
from agentgw.app.outbound import HttpClients
from agentgw.config.model import Config
from agentgw.core.actor import index_agents
from agentgw.core.revocation import Revoked
from agentgw.errors import InvalidToken, Unavailable
from agentgw.identity.explain import Explainer
from agentgw.identity.explanation import KeysNotFetched, KeysUnreachable
from agentgw.identity.jwk import VerifyKey, read_jwk
from agentgw.identity.oidc import OidcKeys
from agentgw.identity.verifier import KeySource
from agentgw.registry.ledger import Ledger
from agentgw.registry.revocations import Revocations
from agentgw.registry.schema import open_database
from agentgw.sts.keys import KeyRing


class NoKeys:
    """A KeySource where nothing is to be fetched."""

    async def find(self, kid: str | None, alg: str) -> VerifyKey:
        """Raises KeysNotFetched."""
        raise KeysNotFetched("keys are not fetched with --offline")


class FetchedKeys:
    """A KeySource that tells keys which are not there from keys that could not be had."""

    def __init__(self, keys: OidcKeys) -> None:
        self._keys = keys

    async def find(self, kid: str | None, alg: str) -> VerifyKey:
        """The issuer's key. Raises InvalidToken, KeysUnreachable where the issuer cannot be asked."""
        try:
            return await self._keys.find(kid, alg)
        except InvalidToken as error:
            if self._keys.problem is not None:
                raise KeysUnreachable(error.reason) from None
            raise


class RingKeys:
    """Our own keys, from this machine."""

    def __init__(self, ring: KeyRing) -> None:
        self._ring = ring

    async def find(self, kid: str | None, alg: str) -> VerifyKey:
        """Our published key. Raises InvalidToken where no key has that id."""
        key = None if kid is None else self._ring.key(kid)
        if key is None:
            raise InvalidToken("the token claims to be ours but names no signing key of ours")
        return read_jwk(key.jwk())


@contextlib.asynccontextmanager
async def explainer(config: Config, *, offline: bool) -> AsyncIterator[Explainer]:
    """An Explainer for this configuration. Keys of issuers are fetched unless `offline`; our own keys
    and ledger are this machine's where it has them, else our keys are fetched too. Changes nothing."""
    rules = convert.issuer_rules(config)
    ring = _ring(config)
    engine = None
    database = config.state_dir / "agentgw.db"
    if database.exists():
        engine = open_database(database)
    async with contextlib.aclosing(HttpClients(lambda: config)) as http:

        def fetched(issuer: str, jwks_uri: str | None) -> KeySource:
            if offline:
                return NoKeys()
            return FetchedKeys(
                OidcKeys(issuer, http.of(issuer, jwks_uri), jwks_uri=jwks_uri, dev=config.dev)
            )

        keys = {rule.issuer: fetched(rule.issuer, rule.jwks_uri) for rule in rules}
        ours = config.public_url
        keys[ours] = RingKeys(ring) if ring else fetched(ours, f"{ours}/oauth/jwks.json")
        try:
            yield Explainer(
                {rule.issuer: rule for rule in rules},
                index_agents(convert.agent_rules(config), rules, ours),
                ours,
                keys,
                {s.audience: name for name, s in config.servers.items() if s.audience is not None},
                None if engine is None else Ledger(engine),
                None if engine is None else _revoked(ours, engine),
                config.limits.token,
                config.limits.claims_depth,
            )
        finally:
            if engine is not None:
                engine.dispose()


def _revoked(issuer: str, engine: Engine) -> Revoked:
    """What is revoked now."""
    revoked, store = Revoked(issuer), Revocations(engine)
    revoked.apply(store.since(0))
    revoked.expire(time.time())
    return revoked


def _ring(config: Config) -> KeyRing | None:
    if not (config.state_dir / "keys").is_dir():
        return None
    with contextlib.suppress(Unavailable):
        return KeyRing(config.state_dir)
    return None
