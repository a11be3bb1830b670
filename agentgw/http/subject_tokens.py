"""Subject tokens as they come in: verified, looked up in the ledger, and spent where they serve once."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Protocol

from agentgw.core.exchange import ExchangeRules, SubjectToken
from agentgw.core.exchange_request import ExchangeRequest
from agentgw.core.id_jag import IdJagRequest, judge_assertion
from agentgw.core.possession import Presented
from agentgw.core.receipts import receipts_of
from agentgw.errors import InvalidToken, OAuthError
from agentgw.identity import Grant, Verified


class SubjectVerifier(Protocol):
    """Tells what a subject_token says. Raises InvalidToken, or Unavailable where it cannot know."""

    async def verify_subject_token(self, token: bytes, now: float) -> Verified: ...

    async def verify_grant(self, token: bytes) -> Grant: ...


class Children(Protocol):
    """How often a token was exchanged. Raises Unavailable."""

    async def count_children(self, jti: str) -> int: ...


class SubjectTokens:
    """Reads subject tokens. `verifier` gives the one in use now, `clock` Unix seconds; `spend(jti, exp)`
    is true the first time only, for all workers."""

    def __init__(
        self,
        verifier: Callable[[], SubjectVerifier],
        ledger: Children,
        spend: Callable[[str, int], bool],
        clock: Callable[[], float],
    ) -> None:
        self._verifier = verifier
        self._ledger = ledger
        self._spend = spend
        self._clock = clock

    async def read(self, asked: ExchangeRequest, issuer: str) -> SubjectToken:
        """The verified subject_token of a request. Raises OAuthError or Unavailable."""
        try:
            token = asked.subject_token.encode()
            verified = await self._verifier().verify_subject_token(token, self._clock())
            subject = subject_token(verified, issuer)
        except InvalidToken as error:
            description = f"the subject_token was refused: {error.reason}"
            raise OAuthError("invalid_request", description) from None
        if subject.entry is None or subject.entry.kind == "gateway":
            return subject
        siblings = await self._ledger.count_children(subject.entry.jti)
        return dataclasses.replace(subject, siblings=siblings)

    async def read_assertion(
        self, asked: IdJagRequest, client: str, rules: ExchangeRules, presented: Presented
    ) -> SubjectToken:
        """The verified assertion of a request by the authenticated `client`, which serves once: even if
        nothing is issued after all. Raises OAuthError or Unavailable."""
        now = self._clock()
        try:
            grant = await self._verifier().verify_grant(asked.assertion.encode())
            subject = judge_assertion(
                grant.claims, grant.typ, grant.inbound, grant.issuer, rules, client, presented, now
            )
        except InvalidToken as error:
            description = f"the assertion was refused: {error.reason}"
            raise OAuthError("invalid_grant", description) from None
        mark = f"id-jag {grant.inbound.iss} {grant.inbound.jti}"
        if not await asyncio.to_thread(self._spend, mark, subject.exp):
            raise OAuthError("invalid_grant", "the assertion was used before")
        return subject

    async def spend(self, subject: SubjectToken) -> None:
        """A per-call token serves once, whichever worker is asked; even if nothing is issued after all.

        Raises OAuthError the second time.
        """
        entry = subject.entry
        if entry is None or entry.kind != "call":
            return
        if not await asyncio.to_thread(self._spend, entry.jti, entry.exp):
            raise OAuthError("invalid_grant", "the subject_token was exchanged before")


def subject_token(verified: Verified, our_issuer: str) -> SubjectToken:
    """What exchange needs of a verified token."""
    ours = verified.issuer == our_issuer
    client = None if ours or verified.client_id is None else (verified.issuer, verified.client_id)
    return SubjectToken(
        subject=verified.subject,
        chain=verified.chain,
        scopes=verified.scopes,
        resources=verified.resources,
        exp=verified.exp,
        inbound=verified.inbound,
        client=client,
        has_act=verified.has_act,
        groups=verified.groups,
        txn=verified.txn,
        may_act=verified.may_act,
        acr=verified.acr,
        auth_time=verified.auth_time,
        ours=ours,
        entry=verified.issued,
        dropped_act=verified.dropped_act,
        details=verified.details,
        binding=verified.binding,
        receipts=receipts_of(verified.claims) if ours else (),
    )
