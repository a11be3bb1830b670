"""Who a token stands for: a JWT of a configured issuer or of our own, or what an issuer says of it."""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from agentgw.core import actor
from agentgw.core import claims as rule
from agentgw.core.authorization_details import details_of
from agentgw.core.call_token import CALL_DETAILS
from agentgw.core.canonical import b64url, digest
from agentgw.core.client_credentials import API_KEY_PREFIX
from agentgw.core.introspected import claims_of_jwt, typ_of_opaque
from agentgw.core.possession import binding_of
from agentgw.core.principal import Caller, Inbound, Issued
from agentgw.core.recent import remember
from agentgw.errors import InvalidToken
from agentgw.identity import AgentRules, Grant, IssuerRules, OwnTokens, Verified, jose
from agentgw.identity.introspection import Introspected
from agentgw.identity.jwk import VerifyKey

CACHE_SIZE = 10_000
EXCHANGED_SIZE = 1_000
CACHE_LIFE = 300
REFUSED_LIFE = 3


class KeySource(Protocol):
    """Where the keys of one issuer come from; oidc.OidcKeys is the one that fetches them."""

    async def find(self, kid: str | None, alg: str) -> VerifyKey:
        """The key for a token's header `kid` and `alg`. Raises InvalidToken."""


class Introspector(Protocol):
    """Who says what a token is; introspection.Introspection is the one that asks the issuer."""

    async def ask(self, token: bytes, now: float) -> Introspected:
        """What the issuer says of `token` at Unix time `now`. Raises InvalidToken."""


@dataclass(slots=True)
class _Entry:
    caller: Caller
    until: float


class TokenVerifier:
    """Verifies bearer tokens and remembers them by the SHA-256 of all their bytes.

    `keys` holds a KeySource per issuer alias; `public_url` is our own issuer identifier and the root of
    our resource URLs, without a trailing slash; `token_limit` is in bytes. A remembered Caller is used
    for at most five minutes and never into the last five seconds of its token; a reload makes a new
    verifier, so nothing remembered survives it. `revoked` tells of a token that was taken back.
    `introspection` holds an Introspector per alias of the issuers whose JWTs are asked about as well;
    `opaque` is the one asked about all that is no JWT, with its alias; None where that is refused.

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
        revoked: Callable[[Inbound], bool] = lambda inbound: False,
        introspection: Mapping[str, Introspector] | None = None,
        opaque: tuple[str, Introspector] | None = None,
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
        self._revoked = revoked
        self._introspection = introspection or {}
        self._opaque = opaque
        self._known: OrderedDict[bytes, _Entry] = OrderedDict()
        self._exchanged: OrderedDict[bytes, tuple[float, Verified]] = OrderedDict()
        self._refused: OrderedDict[bytes, tuple[float, str]] = OrderedDict()

    def lookup(self, token: bytes, now: float) -> Caller | None:
        """The Caller of a token verified lately, else None. A hash and a look into a dictionary."""
        key = hashlib.sha256(token).digest()
        entry = self._known.get(key)
        if entry is None or now >= entry.until:
            return None
        self._known.move_to_end(key)
        return entry.caller

    def forget(self, which: Callable[[Caller], bool]) -> None:
        """Remember no more the callers that `which` picks: their tokens are verified anew, or refused."""
        for key in [key for key, entry in self._known.items() if which(entry.caller)]:
            del self._known[key]

    async def authenticate(self, token: bytes, now: float) -> Caller:
        """Verify `token` for use at our own door at Unix time `now`. Raises InvalidToken.

        A Caller with a `binding` is not let in yet: the door must see that proven, for each request.
        """
        key = hashlib.sha256(token).digest()
        verified = self._unless_revoked(await self._verify_anew(token, key, now))
        if not verified.resources:
            raise InvalidToken(
                "the token is a hand-over, or was made for one call: its agent must exchange it first"
            )
        if verified.issued is None:
            actor.check_evidence(verified.chain, self._issuers[verified.inbound.iss])
        actor.check_may_act(verified.may_act, verified.chain)
        actor.check_required(verified.chain[0], verified.binding, self._index)
        caller = _caller(verified)
        remember(self._known, key, _Entry(caller, _until(verified, now)), self._cache_size)
        return caller

    async def verify_subject_token(self, token: bytes, now: float) -> Verified:
        """Verify `token` for an exchange: genuine, alive, of a known issuer and of the right kind.

        What must still be decided is written at Verified. Tokens of other issuers are remembered as
        `authenticate` remembers them, our own looked up each time. Raises InvalidToken.
        """
        key = hashlib.sha256(token).digest()
        known = self._exchanged.get(key)
        if known is not None and now < known[0]:
            return self._unless_revoked(known[1])
        verified = self._unless_revoked(await self._verify_anew(token, key, now))
        if verified.issued is None:
            remember(self._exchanged, key, (_until(verified, now), verified), EXCHANGED_SIZE)
        return verified

    async def _verify_anew(self, token: bytes, key: bytes, now: float) -> Verified:
        refused = self._refused.get(key)
        if refused is not None and now < refused[0]:
            raise InvalidToken(refused[1])
        try:
            return await self._verify(token, "sha-256:" + b64url(key), now)
        except jose.BadSignature as error:
            remember(self._refused, key, (now + REFUSED_LIFE, error.reason), self._cache_size)
            raise

    def _unless_revoked(self, verified: Verified) -> Verified:
        if self._revoked(verified.inbound):
            raise InvalidToken("the token was revoked")
        return verified

    async def _verify(self, token: bytes, inbound_hash: str, now: float) -> Verified:
        if self._opaque is not None and not jose.may_be_jwt(token):
            return await self._verify_opaque(token, *self._opaque, inbound_hash, now)
        unverified = jose.split(token, self._token_limit, self._claims_depth)
        if unverified.claims.get("iss") == self._public_url:
            return await self._verify_own(unverified, inbound_hash, now)
        return await self._verify_foreign(token, unverified, inbound_hash, now)

    def verify_call_token(self, token: bytes, now: float) -> Mapping[str, Any]:
        """The claims of a per-call token of ours that is alive at Unix time `now`. Raises InvalidToken.

        Whether it was used already, only its tool server knows.
        """
        unverified = jose.split(token, self._token_limit, self._claims_depth)
        claims = unverified.claims
        if claims.get("iss") != self._public_url or unverified.typ not in ("at+jwt", "jwt"):
            raise InvalidToken("the token is none of ours")
        jose.verify(unverified, self._own_key(unverified.kid))
        rule.check_times(claims, now, min_life=0)
        if not names_a_call(claims):
            raise InvalidToken("the token was not made for one call")
        return claims

    async def verify_grant(self, token: bytes) -> Grant:
        """A JWT of a configured issuer, its signature proven and nothing else. Raises InvalidToken."""
        unverified = jose.split(token, self._token_limit, self._claims_depth)
        rules = await self._genuine(unverified)
        jti, whole = _text(unverified.claims.get("jti")), digest(token)
        inbound = Inbound(rules.issuer, jti, whole, unverified.signed_hash)
        if self._revoked(inbound):
            raise InvalidToken("it was revoked")
        return Grant(unverified.claims, unverified.typ, rules, inbound)

    async def _verify_foreign(
        self, token: bytes, unverified: jose.Unverified, inbound_hash: str, now: float
    ) -> Verified:
        rules = await self._genuine(unverified)
        said = Introspected(unverified.claims, math.inf)
        if rules.alias in self._introspection:
            rule.check_times(unverified.claims, now)
            answer = await self._introspection[rules.alias].ask(token, now)
            said = Introspected(claims_of_jwt(unverified.claims, answer.claims), answer.until)
        hashes = (inbound_hash, unverified.signed_hash)
        return self._describe(said, unverified.typ, rules, hashes, now)

    async def _genuine(self, unverified: jose.Unverified) -> IssuerRules:
        """The issuer whose key signed it."""
        issuer = unverified.claims.get("iss")
        rules = self._issuers.get(issuer) if isinstance(issuer, str) else None
        if rules is None:
            raise InvalidToken("the token's issuer is not configured here")
        # Ed25519 is the new name of what EdDSA means here (RFC 9864).
        alg = "EdDSA" if unverified.alg == "Ed25519" else unverified.alg
        if rules.algorithms and alg not in rules.algorithms:
            raise InvalidToken("the token's alg is not one its issuer is configured to use")
        jose.verify(unverified, await self._keys[rules.alias].find(unverified.kid, unverified.alg))
        return rules

    async def _verify_opaque(
        self, token: bytes, alias: str, introspector: Introspector, inbound_hash: str, now: float
    ) -> Verified:
        jose.check_opaque(token, self._token_limit)
        if token.startswith(API_KEY_PREFIX.encode()):
            raise InvalidToken("an API key is no access token: get one for it at /oauth/token")
        rules = next(rules for rules in self._issuers.values() if rules.alias == alias)
        said = await introspector.ask(token, now)
        typ = typ_of_opaque(said.claims, rules)
        return self._describe(said, typ, rules, (inbound_hash, inbound_hash), now)

    def _describe(
        self,
        said: Introspected,
        typ: str | None,
        rules: IssuerRules,
        hashes: tuple[str, str],
        now: float,
    ) -> Verified:
        """What the genuine claims of an issuer's token say, whichever way they came.

        `hashes` are those of the whole token and of what is signed in it.
        """
        claims = said.claims
        exp = rule.check_times(claims, now)
        rule.check_kind(claims, typ, rules)
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
            inbound=Inbound(rules.issuer, _text(claims.get("jti")), *hashes),
            acr=_text(claims.get("acr")),
            auth_time=_seconds(claims.get("auth_time")),
            notes=actors.notes,
            details=details_of(claims),
            until=said.until,
            binding=binding_of(claims),
        )

    async def _verify_own(
        self, unverified: jose.Unverified, inbound_hash: str, now: float
    ) -> Verified:
        claims = unverified.claims
        jose.verify(unverified, self._own_key(unverified.kid))
        exp = rule.check_times(claims, now)
        rule.check_kind(claims, unverified.typ, self._own_rules)
        is_call = names_a_call(claims)
        if is_call and "may_act" not in claims:
            raise InvalidToken("the token was made for one call upstream and is no credential here")
        jti = claims.get("jti")
        issued = await self._own.issued(jti) if isinstance(jti, str) else None
        if issued is None:
            raise InvalidToken(
                "the token is not in our ledger: never issued for use here, or revoked"
            )
        if is_call != (issued.kind == "call"):
            raise InvalidToken("the token is of another kind than our ledger's entry of it")
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
            details=issued.details,
            binding=issued.binding,
        )

    def _own_key(self, kid: str | None) -> VerifyKey:
        key = None if kid is None else self._own.key(kid)
        if key is None:
            raise InvalidToken("the token claims to be ours but names no signing key of ours")
        return key

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
        if issued.kind == "call" and ids[:1] == (self._public_url,):
            ids = ids[1:]  # actor_mode gateway: we stand before the agent
        if not same or ids != tuple(hop.id for hop in issued.chain) or not ids:
            raise InvalidToken("the token and our ledger's entry of it differ")
        # A call's own details and key bind that call; what its caller was bound to is in the ledger only.
        own = issued.kind == "call"
        if not own and binding_of(claims) != issued.binding:
            raise InvalidToken("the token's cnf and our ledger's entry of it differ")
        same = own or details_of(claims) == issued.details
        if not same or rule.scopes_of(claims) != issued.scopes:
            raise InvalidToken("the token's rights and our ledger's entry of it differ")

    def _own_resources(self, issued: Issued) -> frozenset[str]:
        if issued.kind in ("hand-over", "call"):
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
    current, *older = verified.chain
    return Caller(
        subject=verified.subject,
        chain=(actor.proven_by(current, verified.binding), *older),
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
        details=verified.details,
        binding=verified.binding,
        receipts=() if verified.issued is None else verified.issued.receipts,
        consent=None if verified.issued is None else verified.issued.consent,
    )


def _until(verified: Verified, now: float) -> float:
    """Until when a verified token may be taken unread."""
    return min(now + CACHE_LIFE, verified.exp - rule.MIN_LIFE, verified.until)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and len(value) <= rule.NAME_LIMIT else None


def _seconds(value: object) -> int | None:
    return value if type(value) is int else None
