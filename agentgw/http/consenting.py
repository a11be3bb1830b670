"""Consent: what a user is asked before an agent may act for them, and what their answer begins."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response

from agentgw.core.canonical import b64url
from agentgw.core.consent import Consent
from agentgw.core.exchange_rules import ExchangeAgent, ExchangeRules
from agentgw.core.oauth_client import OAuthClient
from agentgw.core.offer import (
    DAY,
    HOUR,
    Choice,
    Offer,
    choose,
    lives,
    scopes_within,
    usual_life,
)
from agentgw.core.principal import Caller, Hop, Inbound, Issued, Subject
from agentgw.core.recheck import sign_in_key
from agentgw.core.recorder import Recorder
from agentgw.core.redirect_uri import csp_source, redirect_host, stays_here
from agentgw.core.revocation import Revoked
from agentgw.core.sign_in import SignedIn
from agentgw.errors import OAuthError, Unavailable
from agentgw.http.page import ANY_SITE, page
from agentgw.http.request import Networks, source_of, user_agent_of

FORM_FIELDS = 5000
FORM_BYTES = 512 * 1024
"""A page offers every tool as a field of its own, and there may be thousands."""


class Remembered(Protocol):
    """What users chose before; calls block on the disk. All raise Unavailable."""

    def remember(
        self, subject: Subject, client_id: str, agent: str, resource: str, choice: Choice, now: int
    ) -> None: ...

    def last(
        self, subject: Subject, client_id: str, agent: str, resource: str
    ) -> tuple[Consent, int] | None: ...


class Entries(Protocol):
    """The ledger. Raises Unavailable, OAuthError for a revoked parent."""

    async def record(self, issued: Issued) -> None: ...


@dataclass(frozen=True, slots=True)
class Wish:
    """What a client wants to be let do: at `resource`, with `scopes` (None: it named none).

    `redirect_uri` is where its user goes then, None where the user stays: the client is a device.
    """

    client: OAuthClient
    resource: str
    scopes: frozenset[str] | None
    redirect_uri: str | None


class NotPossible(Exception):
    """The user cannot be asked; `reason` is a sentence for them."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Consenting:
    """Asks users, and writes down what they allow before anything can come of it.

    `offer(caller, resource)` is what policy would allow, `scopes(resource)` are those that mean anything
    there. `longest` gives how long a consent may last, and `max_age` how long after the sign-in where the
    provider cannot be asked again, both in seconds. `clock` gives Unix seconds.
    """

    def __init__(
        self,
        *,
        offer: Callable[[Caller, str], Awaitable[Offer]],
        scopes: Callable[[str], Collection[str]],
        remembered: Remembered,
        ledger: Entries,
        revoked: Revoked,
        rules: Callable[[], ExchangeRules],
        longest: Callable[[], int],
        max_age: Callable[[], int],
        recorder: Recorder,
        clock: Callable[[], float],
        trusted_proxies: Networks = (),
    ) -> None:
        self._offer = offer
        self._scopes = scopes
        self._remembered = remembered
        self._ledger = ledger
        self._revoked = revoked
        self._rules = rules
        self._longest = longest
        self._max_age = max_age
        self._recorder = recorder
        self._clock = clock
        self._trusted_proxies = trusted_proxies

    async def ask(self, person: SignedIn, wish: Wish, action: str, **hidden: str) -> Response:
        """The page that asks; its form goes to `action`, with `hidden` fields. Raises NotPossible."""
        agent = self._agent(person, wish)
        offer = await self._offered(person, wish, agent)
        client = wish.client
        before = await asyncio.to_thread(
            self._remembered.last, person.subject, client.client_id, client.agent, wish.resource
        )
        longest = self._longest_for(person)
        usual = usual_life(longest, None if before is None else before[1])
        redirect = wish.redirect_uri
        return page(
            "consent",
            form_action=() if redirect is None else (csp_source(redirect), ANY_SITE),
            person=person,
            client=client,
            agent=agent.name,
            offer=offer,
            before=None if before is None else before[0],
            lives=[(life, in_words(life), life == usual) for life in lives(longest)],
            redirect_host=None if redirect is None else redirect_host(redirect),
            stays_here=redirect is not None and stays_here(redirect),
            action=action,
            hidden=hidden,
        )

    async def allow(
        self, request: Request, person: SignedIn, wish: Wish, form: Mapping[str, str]
    ) -> Issued | None:
        """Begin the login that the posted page allows; None where the page says nothing sensible.

        On return it is in the ledger and on record. Raises NotPossible or Unavailable.
        """
        agent = self._agent(person, wish)
        offer = await self._offered(person, wish, agent)
        choice = choose(form, offer, self._longest_for(person))
        if choice is None:
            return None
        now, client = int(self._clock()), wish.client
        login = Issued(
            jti=b64url(secrets.token_bytes(16)),
            kind="login",
            parent=sign_in_key(person.sid),
            subject=person.subject,
            groups=person.groups,
            chain=(_hop(agent, client),),
            audience=wish.resource,
            scopes=choice.scopes,
            txn="t-" + b64url(secrets.token_bytes(12)),
            iat=now,
            exp=now + choice.life
            if person.renewable
            else min(now + choice.life, person.at + self._max_age()),
            presenter=client.client_id,
            acr=person.acr,
            auth_time=person.auth_time,
            resources=frozenset({wish.resource}),
            consent=choice.consent,
        )
        try:
            await self._ledger.record(login)
        except OAuthError:
            raise NotPossible("Your sign-in has ended.") from None
        await asyncio.to_thread(
            self._remembered.remember,
            person.subject,
            client.client_id,
            agent.name,
            wish.resource,
            choice,
            now,
        )
        await self._record(request, person, wish, login)
        return login

    async def deny(self, request: Request, person: SignedIn, wish: Wish) -> None:
        """Put on record that the user said no. Raises Unavailable."""
        await self._record(request, person, wish, None)

    def _longest_for(self, person: SignedIn) -> int:
        longest = self._longest()
        return longest if person.renewable else min(longest, self._max_age())

    def _agent(self, person: SignedIn, wish: Wish) -> ExchangeAgent:
        """The agent that the client is, where today's rules would let it in for this user at all."""
        rules = self._rules()
        agent = rules.agents.get(wish.client.agent)
        if agent is None or agent.disabled or agent.name not in rules.let_in:
            raise NotPossible("This agent is switched off here.")
        if self._revoked.stale:
            raise Unavailable("revocations cannot be read")
        if (who := self._revoked.party(person.subject, (_hop(agent, wish.client),))) is not None:
            raise NotPossible(f"An operator has blocked {who}.")
        return agent

    async def _offered(self, person: SignedIn, wish: Wish, agent: ExchangeAgent) -> Offer:
        """What policy would allow: the question of lists, asked for a token that does not exist yet."""
        issuer = self._rules().issuer
        caller = Caller(
            subject=person.subject,
            chain=(_hop(agent, wish.client),),
            scopes=scopes_within(wish.scopes, self._scopes(wish.resource)),
            resources=frozenset({wish.resource}),
            exp=int(self._clock()) + self._longest_for(person),
            inbound=Inbound(issuer, None, ""),
            presenter=agent.id,
            groups=person.groups,
            acr=person.acr,
            auth_time=person.auth_time,
        )
        return await self._offer(caller, wish.resource)

    async def _record(
        self, request: Request, person: SignedIn, wish: Wish, login: Issued | None
    ) -> None:
        client, rules = wish.client, self._rules()
        detail: dict[str, Any] = {"client_id": client.client_id, "client": client.kind}
        if wish.redirect_uri is not None:
            detail["redirect_host"] = redirect_host(wish.redirect_uri)
        if login is not None and login.consent is not None:
            detail["consent"] = login.consent.shown()
        await self._recorder.record(
            "login/consent",
            txn=None if login is None else login.txn,
            subject=person.subject,
            chain=(_hop(rules.agents[client.agent], client),),
            presenter=client.client_id,
            client=user_agent_of(request.scope),
            source=source_of(request.scope, self._trusted_proxies),
            name=wish.resource,
            issued=None if login is None else _facts(login),
            reason="access_denied" if login is None else None,
            detail=detail,
        )


def in_words(seconds: int) -> str:
    """A span as people say it."""
    for size, word in ((DAY, "day"), (HOUR, "hour"), (60, "minute")):
        if seconds >= size:
            count = seconds // size
            return f"{count} {word}{'s' if count > 1 else ''}"
    return f"{seconds} seconds"


def _hop(agent: ExchangeAgent, client: OAuthClient) -> Hop:
    return Hop(agent.id, agent.name, client.evidence)


def _facts(login: Issued) -> dict[str, object]:
    scope = " ".join(sorted(login.scopes)) or None
    return {"jti": login.jti, "aud": login.audience, "scope": scope, "exp": login.exp}
