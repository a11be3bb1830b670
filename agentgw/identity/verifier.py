"""Who a JWT stands for: one of a configured issuer, or one of our own."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from agentgw.core import actor
from agentgw.core import claims as rule
from agentgw.core.call_token import CALL_DETAILS
from agentgw.core.canonical import b64url
from agentgw.core.principal import Caller, Inbound, Issued
from agentgw.errors import InvalidToken
from agentgw.identity import AgentRules, IssuerRules, OwnTokens, Verified, jose
from agentgw.identity.jwk import UnusableKey, VerifyKey, bind_key

CACHE_SIZE = 10_000
CACHE_LIFE = 300
REFUSED_LIFE = 3


class KeySource(Protocol):
    """Where the keys of one issuer come from; oidc.OidcKeys is the one that fetches them."""

    async def find(self, kid: str | None, alg: str) -> VerifyKey:
        """The key for a token's header `kid` and `alg`. Raises InvalidToken."""


@dataclass(slots=True)
class _Entry:
    caller: Caller
    until: float


class TokenVerifier:
    """Verifies bearer tokens and remembers them by the SHA-256 of all their bytes.

    `keys` holds a KeySource per issuer alias; `public_url` is our own issuer identifier and the root of
    our resource URLs, without a trailing slash; `token_limit` is in bytes. A remembered Caller is used
    for at most five minutes and never into the last five seconds of its token; a reload makes a new
    verifier, so nothing remembered survives it.

    Raises ValueError where two issuers are one, one is ourselves, or agents share a name or client.
    """

    def __init__(
        self,
        issuers: Iterable[IssuerRules],
        agents: Iterable[AgentRules],
        own: OwnTokens,
        public_url: str,
        keys: Mapping[str, KeySource],
        *,
        token_limit: int = jose.TOKEN_LIMIT,
        claims_depth: int = jose.DEPTH_LIMIT,
        cache_size: int = CACHE_SIZE,
    ) -> None:
        listed = tuple(issuers)
        self._issuers = {item.issuer: item for item in listed}
        if public_url in self._issuers or len(self._issuers) != len(listed):
            raise ValueError("every issuer must be listed once, and none may be this gateway")
        self._index = actor.index_agents(agents, listed, public_url)
        self._own = own
        self._public_url = public_url
        self._own_rules = IssuerRules(public_url, public_url, {}, require_typ="at+jwt")
        self._keys = keys
        self._token_limit = token_limit
        self._claims_depth = claims_depth
        self._cache_size = cache_size
        self._known: OrderedDict[bytes, _Entry] = OrderedDict()
        self._refused: OrderedDict[bytes, tuple[float, str]] = OrderedDict()

    def lookup(self, token: bytes, now: float) -> Caller | None:
        """The Caller of a token verified lately, else None. A hash and a look into a dictionary."""
        key = hashlib.sha256(token).digest()
        entry = self._known.get(key)
        if entry is None or now >= entry.until:
            return None
        self._known.move_to_end(key)
        return entry.caller

    async def authenticate(self, token: bytes, now: float) -> Caller:
        """Verify `token` for use at our own door at Unix time `now`. Raises InvalidToken."""
        verified = await self.verify_subject_token(token, now)
        if not verified.resources:
            raise InvalidToken("the token is a hand-over: its agent must exchange it first")
        if verified.issued is None:
            actor.check_evidence(verified.chain, self._issuers[verified.inbound.iss])
        actor.check_may_act(verified.may_act, verified.chain)
        caller = _caller(verified)
        key = hashlib.sha256(token).digest()
        until = min(now + CACHE_LIFE, verified.exp - rule.MIN_LIFE)
        _remember(self._known, key, _Entry(caller, until), self._cache_size)
        return caller

    async def verify_subject_token(self, token: bytes, now: float) -> Verified:
        """Verify `token` for an exchange: genuine, alive, of a known issuer and of the right kind.

        What must still be decided is written at Verified. Per-call tokens are refused.
        Raises InvalidToken.
        """
        key = hashlib.sha256(token).digest()
        refused = self._refused.get(key)
        if refused is not None and now < refused[0]:
            raise InvalidToken(refused[1])
        unverified = jose.split(token, self._token_limit, self._claims_depth)
        inbound_hash = "sha-256:" + b64url(key)
        try:
            if unverified.claims.get("iss") == self._public_url:
                return self._verify_own(unverified, inbound_hash, now)
            return await self._verify_foreign(unverified, inbound_hash, now)
        except jose.BadSignature as error:
            _remember(self._refused, key, (now + REFUSED_LIFE, error.reason), self._cache_size)
            raise

    async def _verify_foreign(
        self, unverified: jose.Unverified, inbound_hash: str, now: float
    ) -> Verified:
        claims = unverified.claims
        issuer = claims.get("iss")
        rules = self._issuers.get(issuer) if isinstance(issuer, str) else None
        if rules is None:
            raise InvalidToken("the token's issuer is not configured here")
        # Ed25519 is the new name of what EdDSA means here (RFC 9864).
        alg = "EdDSA" if unverified.alg == "Ed25519" else unverified.alg
        if rules.algorithms and alg not in rules.algorithms:
            raise InvalidToken("the token's alg is not one its issuer is configured to use")
        jose.verify(unverified, await self._keys[rules.alias].find(unverified.kid, unverified.alg))
        exp = rule.check_times(claims, now)
        rule.check_kind(claims, unverified.typ, rules)
        resources = rule.resources_of(claims, rules)
        actors = actor.determine_actors(claims, rules, self._index)
        return Verified(
            claims=MappingProxyType(dict(claims)),
            issuer=rules.alias,
            subject=rule.subject_of(claims, rules, self._public_url),
            groups=rule.groups_of(claims, rules),
            scopes=rule.scopes_of(claims),
            resources=resources,
            chain=actors.chain,
            presenter=actors.presenter,
            client_id=actors.client_id,
            has_act="act" in claims,
            dropped_act=actors.dropped_act,
            may_act=actor.may_act_of(claims, rules.alias, rules.issuer, self._index),
            exp=exp,
            inbound=Inbound(rules.issuer, _text(claims.get("jti")), inbound_hash),
            acr=_text(claims.get("acr")),
            auth_time=_seconds(claims.get("auth_time")),
            notes=actors.notes,
        )

    def _verify_own(self, unverified: jose.Unverified, inbound_hash: str, now: float) -> Verified:
        claims = unverified.claims
        jose.verify(unverified, self._own_key(unverified.kid))
        exp = rule.check_times(claims, now)
        rule.check_kind(claims, unverified.typ, self._own_rules)
        if names_a_call(claims):
            raise InvalidToken("the token was made for one call upstream and is no credential here")
        jti = claims.get("jti")
        issued = self._own.issued(jti) if isinstance(jti, str) else None
        if issued is None:
            raise InvalidToken(
                "the token is not in our ledger: never issued for use here, or revoked"
            )
        self._check_entry(claims, issued)
        return Verified(
            claims=MappingProxyType(dict(claims)),
            issuer=self._public_url,
            subject=issued.subject,
            groups=issued.groups,
            scopes=issued.scopes,
            resources=self._own_resources(issued),
            chain=actor.refresh_hops(issued.chain, self._index),
            presenter=issued.presenter,
            client_id=None,
            has_act="act" in claims,
            dropped_act=False,
            may_act=actor.may_act_of(claims, self._public_url, self._public_url, self._index),
            exp=exp,
            inbound=Inbound(self._public_url, issued.jti, inbound_hash),
            issued=issued,
            txn=issued.txn,
            acr=issued.acr,
            auth_time=issued.auth_time,
        )

    def _own_key(self, kid: str | None) -> VerifyKey:
        key = None if kid is None else self._own.key(kid)
        if key is None:
            raise InvalidToken("the token claims to be ours but names no signing key of ours")
        try:
            return bind_key(key, kid)
        except UnusableKey:
            raise InvalidToken("our own signing key is not of a kind we accept") from None

    def _check_entry(self, claims: Mapping[str, Any], issued: Issued) -> None:
        """Token and ledger must tell one story; where they differ, one of them was tampered with."""
        told = {
            "aud": issued.audience,
            "sub": issued.subject.name,
            "client_id": self._public_url,
            "txn": issued.txn,
            "exp": issued.exp,
        }
        same = all(claims.get(name) == value for name, value in told.items())
        ids = actor.act_ids(claims, self._public_url, self._claims_depth)
        if not same or ids != tuple(hop.id for hop in issued.chain) or not ids:
            raise InvalidToken("the token and our ledger's entry of it differ")
        if rule.scopes_of(claims) != issued.scopes:
            raise InvalidToken("the token's scope and our ledger's entry of it differ")

    def _own_resources(self, issued: Issued) -> frozenset[str]:
        if issued.kind == "hand-over":
            return frozenset()
        if issued.kind != "gateway" or not rule.is_resource(issued.audience, self._public_url):
            raise InvalidToken("the token is not meant for this gateway")
        return frozenset({issued.audience})


def names_a_call(claims: Mapping[str, Any]) -> bool:
    """Whether `authorization_details` (RFC 9396) make this one of our per-call tokens."""
    details = claims.get("authorization_details")
    if not isinstance(details, list):
        return details is not None
    return any(not isinstance(item, dict) or item.get("type") == CALL_DETAILS for item in details)


def _caller(verified: Verified) -> Caller:
    return Caller(
        subject=verified.subject,
        chain=verified.chain,
        scopes=verified.scopes,
        resources=verified.resources,
        exp=verified.exp,
        inbound=verified.inbound,
        presenter=verified.presenter,
        groups=verified.groups,
        txn=verified.txn,
        acr=verified.acr,
        auth_time=verified.auth_time,
        claims=verified.claims,
        notes=verified.notes,
    )


def _remember(cache: OrderedDict[bytes, Any], key: bytes, value: object, size: int) -> None:
    cache[key] = value
    cache.move_to_end(key)
    while len(cache) > size:
        cache.popitem(last=False)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and len(value) <= rule.NAME_LIMIT else None


def _seconds(value: object) -> int | None:
    return value if type(value) is int else None
