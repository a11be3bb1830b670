"""Issuing: what is asked for is decided, kept in the ledger and recorded; only then is it signed.

Whatever asks for a token of ours comes through here: the token endpoint, and a request that takes up a
hand-over.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypedDict

from agentgw.core.canonical import b64url
from agentgw.core.client_credentials import (
    CLIENT_CREDENTIALS,
    ClientCredentialsRequest,
    issue_for_itself,
)
from agentgw.core.exchange import ActorToken, Exchanged, ExchangeRules, SubjectToken, exchange
from agentgw.core.exchange_request import ExchangeRequest
from agentgw.core.id_jag import JWT_BEARER, IdJagRequest, redeem
from agentgw.core.login_grants import LoginRefused, LoginRequest, issue_by_login
from agentgw.core.possession import Presented
from agentgw.core.principal import Hop, Issued, Subject
from agentgw.core.receipts import RECEIPT_TYP, with_receipt
from agentgw.core.recorder import Recorder
from agentgw.core.revocation import Revoked, check_parties
from agentgw.errors import OAuthError
from agentgw.http.client_request import Applicant
from agentgw.http.subject_tokens import SubjectTokens
from agentgw.sts.clients import AuthenticatedClient

Asked = ExchangeRequest | ClientCredentialsRequest | IdJagRequest | LoginRequest


class ActorTokens(Protocol):
    """Tells whom an actor_token proves. Raises OAuthError or Unavailable."""

    async def prove_actor(self, token: str) -> ActorToken: ...


class IssuedTokens(Protocol):
    """The ledger. Raises Unavailable, OAuthError for a revoked parent or too many of its children."""

    async def record(self, issued: Issued, siblings: int | None = None) -> None: ...


class Signer(Protocol):
    """Signs claims whose `iss` is ours. Raises Unavailable."""

    def mint(self, claims: Mapping[str, Any], typ: str = "at+jwt") -> Awaitable[bytes]: ...


class _Fresh(TypedDict):
    """What each decision is given anew: Unix seconds, the id of its token, a transaction for it, and
    what came along as proof of possession."""

    now: int
    jti: str
    txn: str
    presented: Presented


class _Case:
    """What was presented, once it is read, and what is made of it."""

    subject: SubjectToken | None = None
    login: Issued | None = None
    made: Exchanged


class Issuing:
    """Issues tokens of ours by the `rules` in use now.

    Nothing is signed before its record is durable. `revoked` knows who was locked out. `clock` gives Unix
    seconds. Everything here raises OAuthError, whose refusal is then on record, or Unavailable.
    """

    def __init__(
        self,
        *,
        subjects: SubjectTokens,
        actors: ActorTokens,
        ledger: IssuedTokens,
        signer: Signer,
        revoked: Revoked,
        rules: Callable[[], ExchangeRules],
        recorder: Recorder,
        clock: Callable[[], float],
    ) -> None:
        self._subjects = subjects
        self._actors = actors
        self._ledger = ledger
        self._signer = signer
        self._revoked = revoked
        self._rules = rules
        self._recorder = recorder
        self._clock = clock

    async def exchange(
        self, asked: ExchangeRequest, by: Applicant, presented: Presented
    ) -> Exchanged:
        """Exchange a subject_token (RFC 8693)."""
        rules = self._rules()
        async with self._recorded(by, asked) as case:
            case.subject = await self._subjects.read(asked, rules.issuer)
            case.made = await self._decide(asked, case.subject, by.client, rules, presented)
            await self._subjects.spend(case.subject)
        return case.made

    async def take_up(
        self,
        asked: ExchangeRequest,
        client: AuthenticatedClient,
        source: str,
        user_agent: str | None,
        presented: Presented,
    ) -> Exchanged:
        """Exchange a hand-over for a token that nobody needs to see: it is used in this very request."""
        by = Applicant(client, self._recorder.new_id(), source, user_agent)
        rules = self._rules()
        async with self._recorded(by, asked) as case:
            case.subject = await self._subjects.read(asked, rules.issuer)
            if case.subject.entry is None or case.subject.entry.kind != "hand-over":
                raise OAuthError("invalid_grant", "it is no hand-over to this agent")
            case.made = await self._decide(asked, case.subject, client, rules, presented)
        return case.made

    async def for_itself(
        self, asked: ClientCredentialsRequest, by: Applicant, presented: Presented
    ) -> Exchanged:
        """Give an agent a token with no user behind it (RFC 6749 section 4.4)."""
        client, rules = by.client, self._rules()
        async with self._recorded(by, asked) as case:
            fresh = self._fresh(presented)
            case.made = issue_for_itself(
                asked, client.agent, rules, evidence=client.evidence, **fresh
            )
            check_parties(self._revoked, case.made.issued.subject, case.made.issued.chain)
        return case.made

    async def redeem(self, asked: IdJagRequest, by: Applicant, presented: Presented) -> Exchanged:
        """Redeem an identity assertion of another domain (ID-JAG)."""
        client, rules = by.client, self._rules()
        async with self._recorded(by, asked) as case:
            case.subject = await self._subjects.read_assertion(
                asked, client.agent, rules, presented
            )
            fresh = self._fresh(presented)
            case.made = redeem(
                asked, case.subject, client.agent, rules, evidence=client.evidence, **fresh
            )
            check_parties(self._revoked, case.made.issued.subject, case.made.issued.chain)
        return case.made

    async def by_login(
        self,
        asked: LoginRequest,
        by: Applicant,
        presented: Presented,
        find: Callable[[], Awaitable[Issued | None]],
    ) -> Exchanged:
        """Give a token by what a user allowed: the login that `find` finds, or raises OAuthError."""
        client, rules = by.client, self._rules()
        async with self._recorded(by, asked) as case:
            case.login = await find()
            fresh = self._fresh(presented)
            case.made = issue_by_login(
                asked, case.login, client.agent, rules, evidence=client.evidence, **fresh
            )
            check_parties(self._revoked, case.made.issued.subject, case.made.issued.chain)
        return case.made

    async def refuse(
        self,
        by: Applicant,
        refusal: OAuthError,
        asked: Asked | None = None,
        subject: SubjectToken | None = None,
        login: Issued | None = None,
    ) -> None:
        """Put a refusal on record, as far as was understood what it refuses.

        A client that proves nothing, and shows nothing that we ever gave out, is counted only.
        """
        if by.client.is_stranger and login is None:
            return
        await self._record(by, asked, subject, login, refusal=refusal)

    @asynccontextmanager
    async def _recorded(self, by: Applicant, asked: Asked) -> AsyncIterator[_Case]:
        """Let a decision be made: what was made goes into the ledger, and that or its refusal on record."""
        case = _Case()
        try:
            yield case
            await self._ledger.record(case.made.issued, case.made.siblings)
        except OAuthError as refusal:
            login = refusal.entry if isinstance(refusal, LoginRefused) else case.login
            await self.refuse(by, refusal, asked, case.subject, login)
            raise
        await self._record(by, asked, case.subject, case.login, issued=case.made.issued)

    async def _decide(
        self,
        asked: ExchangeRequest,
        subject: SubjectToken,
        client: AuthenticatedClient,
        rules: ExchangeRules,
        presented: Presented,
    ) -> Exchanged:
        token = asked.actor_token
        actor_token = None if token is None else await self._actors.prove_actor(token)
        actor = rules.agents.get(client.agent)
        actors = () if actor is None else (Hop(actor.id, actor.name, client.evidence),)
        check_parties(self._revoked, subject.subject, (*actors, *subject.chain))
        made = exchange(
            asked,
            subject,
            client.agent,
            rules,
            actor_token=actor_token,
            evidence=client.evidence,
            **self._fresh(presented),
        )
        if made.receipt is None:
            return made
        return with_receipt(made, (await self._signer.mint(made.receipt, RECEIPT_TYP)).decode())

    def _fresh(self, presented: Presented) -> _Fresh:
        return {
            "now": int(self._clock()),
            "jti": b64url(secrets.token_bytes(16)),
            "txn": "t-" + b64url(secrets.token_bytes(12)),
            "presented": presented,
        }

    async def _record(
        self,
        by: Applicant,
        asked: Asked | None,
        subject: SubjectToken | None = None,
        login: Issued | None = None,
        *,
        issued: Issued | None = None,
        refusal: OAuthError | None = None,
    ) -> None:
        agent = self._rules().agents.get(by.client.agent)
        detail: dict[str, object] = {"client_auth": by.client.method}
        whose: Subject | None = None if subject is None else subject.subject
        if isinstance(asked, ClientCredentialsRequest):
            detail["grant_type"] = CLIENT_CREDENTIALS
            whose = None if issued is None else issued.subject
        if isinstance(asked, IdJagRequest):
            detail["grant_type"] = JWT_BEARER
        if isinstance(asked, LoginRequest):
            detail["grant_type"] = asked.grant_type
            detail["client_id"] = by.client.id
        if login is not None:
            detail["login"], whose = login.jti, login.subject
        if isinstance(refusal, LoginRefused) and refusal.ends is not None:
            detail["effect"] = "revoked"
        if subject is not None and subject.siblings:
            detail["siblings"] = subject.siblings
        if refusal is not None:
            detail["error"] = refusal.description
        txn = subject.txn if subject is not None and subject.ours else None
        chain = () if subject is None else subject.chain
        await self._recorder.record(
            "oauth/token",
            event_id=by.event_id,
            txn=txn if issued is None else issued.txn,
            subject=whose,
            chain=chain if issued is None else issued.chain,
            presenter=by.client.agent if agent is None else agent.id,
            client=by.user_agent,
            source=by.source,
            name=None if asked is None else asked.target if issued is None else issued.audience,
            inbound=None if subject is None else subject.inbound,
            issued=None if issued is None else _facts(issued),
            reason=None if refusal is None else refusal.error,
            detail=detail,
        )


def _facts(issued: Issued) -> dict[str, object]:
    scope = " ".join(sorted(issued.scopes)) or None
    return {"jti": issued.jti, "aud": issued.audience, "scope": scope, "exp": issued.exp}
