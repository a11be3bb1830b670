"""A token explained: every check the verifier makes, made one by one, whatever the others said.

For a developer's eyes, never for a decision: verifier.py decides, and stops at the first failure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from agentgw.core import actor
from agentgw.core import claims as rule
from agentgw.core.authorization_details import OneTool, details_of
from agentgw.core.consent import Consent
from agentgw.core.possession import Binding, binding_of
from agentgw.core.principal import Hop, Inbound, Issued, Subject
from agentgw.core.revocation import Revoked
from agentgw.errors import InvalidToken
from agentgw.identity import IssuerRules, jose
from agentgw.identity.explanation import (
    Check,
    Explanation,
    KeysNotFetched,
    KeysUnreachable,
    read_loosely,
    told_chain,
)
from agentgw.identity.verifier import KeySource, names_a_call

STATE_ELSEWHERE = "the gateway's state is not on this machine"


class Ledger(Protocol):
    """What we issued."""

    def find(self, jti: str) -> Issued | None: ...


@dataclass(frozen=True, slots=True)
class Explainer:
    """Explains tokens by the rules of one configuration.

    `issuers` and `keys` are by issuer identifier, our own keys among them; `upstreams` are server
    names by the audience of their per-call tokens. `ledger` tells what we issued and `revoked` what was
    taken back, None where they cannot be asked.
    """

    issuers: Mapping[str, IssuerRules]
    index: actor.AgentIndex
    public_url: str
    keys: Mapping[str, KeySource]
    upstreams: Mapping[str, str]
    ledger: Ledger | None = None
    revoked: Revoked | None = None
    token_limit: int = jose.TOKEN_LIMIT
    claims_depth: int = jose.DEPTH_LIMIT

    async def explain(self, token: str, now: float) -> Explanation:
        """Explain a token at Unix time `now`, in seconds. Never raises for what the token is."""
        found = Explanation()
        found.header, found.claims = read_loosely(token)
        found.chain = told_chain(found.claims, self.index)
        unverified = found.attempt(
            "form",
            lambda: jose.split(token, self.token_limit, self.claims_depth),
            lambda part: f"a compact JWS, {part.alg}, typ {part.typ or 'absent'}",
        )
        if unverified is None:
            found.skip("the form already failed", "issuer", "key", "signature")
            return found
        issuer = unverified.claims.get("iss")
        rules = self.issuers.get(issuer) if isinstance(issuer, str) else None
        if issuer == self.public_url:
            await self._explain_own(found, unverified, now)
        elif rules is not None:
            await self._explain_foreign(found, unverified, rules, now)
        else:
            found.kind = "unknown"
            found.checks.append(Check("issuer", False, "the token's issuer is not configured here"))
            found.skip("keys are fetched of configured issuers only", "key", "signature")
            _times(found, unverified, now)
        return found

    async def _explain_foreign(
        self, found: Explanation, unverified: jose.Unverified, rules: IssuerRules, now: float
    ) -> None:
        claims = unverified.claims
        found.kind, found.issuer = "foreign", rules.alias
        found.checks.append(Check("issuer", True, f"configured as {rules.alias}"))
        found.attempt("algorithm", lambda: _check_algorithm(unverified, rules))
        await self._signature(found, unverified, rules.issuer)
        _times(found, unverified, now)
        found.attempt("kind", lambda: rule.check_kind(claims, unverified.typ, rules), _access)
        resources = found.attempt("audience", lambda: rule.resources_of(claims, rules), _opens)
        subject = found.attempt(
            "subject",
            lambda: rule.subject_of(claims, rules, self.public_url),
            lambda subject: f"{subject.name}{_groups(rule.groups_of(claims, rules))}",
        )
        found.subject = None if subject is None else subject.name
        found.attempt("scope", lambda: rule.scopes_of(claims), _scopes)
        found.attempt("one tool", lambda: details_of(claims), _one_tool)
        binding = found.attempt("binding", lambda: binding_of(claims), _bound)
        actors = found.attempt(
            "actors",
            lambda: actor.determine_actors(claims, rules, self.index),
            lambda actors: "; ".join((_by(actors.chain[0]), *actors.notes)),
        )
        if actors is None:
            found.skip("the actors are not known", "evidence", "may_act", "agents")
            return
        found.chain, found.proven = actors.chain, True
        found.attempt("evidence", lambda: actor.check_evidence(actors.chain, rules), _enough)
        self._may_act(found, claims, rules.alias, rules.issuer)
        self._possession(found, binding)
        self._check_revocation(found, unverified, subject)
        found.attempt("agents", lambda: _check_registered(actors.chain))
        if not found.failed:
            found.use = f"{_borne(binding)} for {_listed(resources)}, and to be exchanged"

    async def _explain_own(
        self, found: Explanation, unverified: jose.Unverified, now: float
    ) -> None:
        claims = unverified.claims
        found.issuer = "ours"
        found.kind = "hand-over" if "may_act" in claims else "gateway"
        found.checks.append(Check("issuer", True, "this gateway"))
        await self._signature(found, unverified, self.public_url)
        _times(found, unverified, now)
        ours = IssuerRules(self.public_url, self.public_url, {}, require_typ="at+jwt")
        found.attempt("kind", lambda: rule.check_kind(claims, unverified.typ, ours), _access)
        found.subject = claims["sub"] if isinstance(claims.get("sub"), str) else None
        if names_a_call(claims):
            found.kind = "per-call"
            found.attempt("audience", lambda: self._check_upstream(claims))
            found.proven = found.ok
            if not found.failed:
                heir = "by the agent behind it, once" if "may_act" in claims else "by nobody"
                found.use = f"one request to its server; refused at /mcp, to be exchanged {heir}"
            return
        issued = self._check_ledger(found, claims)
        self._check_revocation(found, unverified, None if issued is None else issued.subject)
        if issued is not None and issued.consent is not None:
            found.checks.append(Check("consent", True, _consented(issued.consent)))
        binding = found.attempt("binding", lambda: binding_of(claims), _bound)
        if found.kind == "gateway":
            found.attempt("audience", lambda: _check_resource(claims, self.public_url))
            self._may_act(found, claims, self.public_url, self.public_url)
            self._possession(found, binding)
        found.attempt("agents", lambda: _check_registered(found.chain))
        if not found.failed:
            found.use = (
                f"{_borne(binding)} for {claims.get('aud')}, and to be exchanged"
                if found.kind == "gateway"
                else f"to be exchanged by {claims.get('aud')}; refused at /mcp"
            )

    def _check_revocation(
        self, found: Explanation, unverified: jose.Unverified, subject: Subject | None
    ) -> None:
        """Whether the token, what it came from, its user or an agent of its chain was taken back."""
        revoked = self.revoked
        if revoked is None:
            found.skip(STATE_ELSEWHERE, "revocation")
            return
        claims, signed = unverified.claims, unverified.signed_hash
        jti = claims["jti"] if isinstance(claims.get("jti"), str) else None
        inbound = Inbound(str(claims.get("iss")), jti, signed, signed)

        def check() -> str:
            if revoked.has_token(inbound):
                raise InvalidToken("the token was revoked, or one that it came from")
            if (party := revoked.party(subject, found.chain)) is not None:
                raise InvalidToken(f"{party} is revoked")
            return "neither the token nor anybody in it"

        found.attempt("revocation", check)

    def _check_ledger(self, found: Explanation, claims: Mapping[str, Any]) -> Issued | None:
        if self.ledger is None:
            found.skip(STATE_ELSEWHERE, "ledger")
            return None
        jti = claims.get("jti")
        issued = self.ledger.find(jti) if isinstance(jti, str) else None
        if found.attempt("ledger", lambda: _check_entry(claims, issued)) and issued is not None:
            found.kind = "hand-over" if issued.kind == "hand-over" else "gateway"
            found.chain, found.proven = actor.refresh_hops(issued.chain, self.index), True
        return issued

    async def _signature(
        self, found: Explanation, unverified: jose.Unverified, issuer: str
    ) -> None:
        try:
            key = await self.keys[issuer].find(unverified.kid, unverified.alg)
        except (KeysUnreachable, KeysNotFetched) as error:
            found.unreachable = isinstance(error, KeysUnreachable)
            found.skip(error.reason, "key", "signature")
        except InvalidToken as error:
            found.checks.append(Check("key", False, error.reason))
            found.skip("there is no key", "signature")
        else:
            found.checks.append(Check("key", True, f"kid {unverified.kid or 'absent'}"))
            found.attempt("signature", lambda: jose.verify(unverified, key), _holds)

    def _may_act(
        self, found: Explanation, claims: Mapping[str, Any], alias: str, issuer: str
    ) -> None:
        def check() -> str:
            may_act = actor.may_act_of(claims, alias, issuer, self.index)
            actor.check_may_act(may_act, found.chain)
            return "not in the token" if may_act is None else may_act

        if found.chain:
            found.attempt("may_act", check)

    def _possession(self, found: Explanation, binding: Binding | None) -> None:
        def check() -> str:
            actor.check_required(found.chain[0], binding, self.index)
            return "as the agent must"

        if found.chain:
            found.attempt("possession", check)

    def _check_upstream(self, claims: Mapping[str, Any]) -> str:
        audience = claims.get("aud")
        if not isinstance(audience, str) or audience not in self.upstreams:
            raise InvalidToken("aud is that of no server configured here")
        return f"for the server {self.upstreams[audience]} only"


def _times(found: Explanation, unverified: jose.Unverified, now: float) -> None:
    found.attempt(
        "lifetime",
        lambda: rule.check_times(unverified.claims, now),
        lambda exp: f"{int(exp - now)} seconds left",
    )


def _check_algorithm(unverified: jose.Unverified, rules: IssuerRules) -> str:
    alg = "EdDSA" if unverified.alg == "Ed25519" else unverified.alg
    if rules.algorithms and alg not in rules.algorithms:
        raise InvalidToken("the token's alg is not one its issuer is configured to use")
    return unverified.alg


def _check_entry(claims: Mapping[str, Any], issued: Issued | None) -> str:
    if issued is None:
        raise InvalidToken("the token is not in our ledger: never issued for use here, or revoked")
    told = {"aud": issued.audience, "sub": issued.subject.name, "exp": issued.exp}
    same = all(claims.get(name) == value for name, value in told.items())
    rights = (rule.scopes_of(claims), details_of(claims), binding_of(claims))
    if not same or rights != (issued.scopes, issued.details, issued.binding):
        raise InvalidToken("the token and our ledger's entry of it differ")
    parent = f", from {issued.parent}" if issued.parent else ""
    return f"issued as {issued.kind}{parent}"


def _check_registered(chain: tuple[Hop, ...]) -> str:
    strangers = [hop.id for hop in chain if hop.agent is None]
    if strangers or not chain:
        names = ", ".join(strangers) or "nobody is named"
        raise InvalidToken(f"not registered here, or disabled (46001 unknown_agent): {names}")
    return ", ".join(str(hop.agent) for hop in chain)


def _check_resource(claims: Mapping[str, Any], public_url: str) -> str:
    audience = claims.get("aud")
    if not isinstance(audience, str) or not rule.is_resource(audience, public_url):
        raise InvalidToken("the token is not meant for this gateway")
    return f"opens {audience}"


def _access(_: None) -> str:
    return "an access token"


def _enough(_: None) -> str:
    return "strong enough for this issuer"


def _holds(_: None) -> str:
    return "holds"


def _listed(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))


def _opens(resources: frozenset[str]) -> str:
    return f"opens {_listed(resources)}"


def _scopes(scopes: frozenset[str]) -> str:
    return " ".join(sorted(scopes)) or "none"


def _one_tool(details: OneTool | None) -> str:
    if details is None:
        return "not limited to one"
    bound = "any arguments" if details.arguments_digest is None else "these arguments only"
    return f"{details.tool} at {details.location}, {bound}"


def _consented(consent: Consent) -> str:
    told = "; ".join(f"{name}: {', '.join(said) or '-'}" for name, said in consent.shown().items())
    return f"the user consented to {told}"


def _bound(binding: Binding | None) -> str:
    names = () if binding is None else (binding.jkt, binding.x5t)
    kinds = ("a DPoP key", "a TLS certificate")
    held = [f"{kind} ({name})" for kind, name in zip(kinds, names, strict=False) if name]
    return " and ".join(held) or "to no key: a plain bearer token"


def _borne(binding: Binding | None) -> str:
    return "a bearer token" if binding is None else "a token to be proven by its key,"


def _groups(groups: frozenset[str]) -> str:
    return f", in {_listed(groups)}" if groups else ", in no group"


def _by(hop: Hop) -> str:
    return f"{hop.agent or hop.id} acts, proven by {hop.evidence}"
