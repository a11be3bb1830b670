"""Credentials of tool servers that take those of another authorization server: asked for, checked, kept.

What is asked and what an answer must be are rules of core; here are the two requests and the memory.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from agentgw.core import external_exchange as rule
from agentgw.core.canonical import b64url, digest
from agentgw.core.external_answer import (
    ReadToken,
    TokenAnswer,
    check_credential,
    check_grant,
    read_answer,
)
from agentgw.core.external_exchange import TWO_STEPS, Credential, Expected, ExternalRules
from agentgw.core.principal import Caller, Subject
from agentgw.core.recent import remember
from agentgw.errors import AnswerRefused, CredentialRefused, Unavailable, UpstreamFailed

MARGIN = 10.0
"""Seconds before its end in which a credential is used no more: a call takes its time."""

KEPT = 10_000
WAITING = 1_000
"""Requests to one server's authorization server that may be under way or wait for their turn."""

_Key = tuple[object, ...]


class AuthorizationServer(Protocol):
    """A token endpoint at which we are a client, and what its tokens say. Both raise UpstreamFailed."""

    async def request(self, form: Mapping[str, str]) -> tuple[int, Any]:
        """Send a form as ourselves; the status and the JSON of the answer."""
        ...

    async def read(self, token: str, now: float) -> ReadToken | None:
        """What a token of it says, genuine; None where only the server itself can tell."""
        ...

    async def read_grant(self, token: str, now: float) -> ReadToken:
        """The same of a JWT that is a grant for another server."""
        ...


@dataclass(frozen=True, slots=True)
class _Kept:
    credential: Credential
    caller: Caller | None


class ExternalSts:
    """The credentials of one tool server. A reload makes a new one, so nothing is kept over it.

    `last` makes the credential; `first` is asked before it in a grant of two steps, and is the same in
    others. `sign` signs the claims of a grant of ours, `clock` gives Unix seconds, `random` so many random
    bytes; `revoked` tells of callers for whom nothing may be kept. An exchange may take `deadline` seconds
    in all. `own` says whether to ask for a credential for ourselves.
    """

    def __init__(
        self,
        rules: ExternalRules,
        first: AuthorizationServer,
        last: AuthorizationServer,
        *,
        policy_version: str,
        sign: Callable[[Mapping[str, Any]], Awaitable[bytes]],
        clock: Callable[[], float],
        random: Callable[[int], bytes],
        revoked: Callable[[Caller], bool] = lambda caller: False,
        deadline: float = 5.0,
        own: bool = True,
    ) -> None:
        self._rules = rules
        self._first = first
        self._last = last
        self._policy_version = policy_version
        self._sign = sign
        self._clock = clock
        self._random = random
        self._revoked = revoked
        self._deadline = deadline
        self._own = own
        self._kept: OrderedDict[_Key, _Kept] = OrderedDict()
        self._flights: dict[_Key, asyncio.Task[Credential | UpstreamFailed | Unavailable]] = {}

    def lookup(
        self, caller: Caller, scope: str | None, owner: Subject | None = None
    ) -> Credential | None:
        """The credential had lately for this caller and the tool's `scope`; asks nobody."""
        return self._known(self._key(caller, scope))

    async def obtain(
        self, caller: Caller, token: bytes | None, scope: str | None, owner: Subject | None = None
    ) -> Credential:
        """A credential for this caller, whose own `token` is at hand where it is one of a door.

        One request runs for callers that are the same. Raises AnswerRefused, UpstreamFailed, or
        Unavailable where we cannot sign.
        """
        key = self._key(caller, scope)
        known = self._known(key)
        if known is not None:
            return known
        asked = rule.asked_scope(self._rules, scope)
        subject_token = self._subject_token(caller, token)
        return await self._fly(key, caller, lambda: self._exchange(caller, subject_token, asked))

    async def renew(
        self,
        caller: Caller,
        scope: str | None,
        refused: Credential | None,
        error: CredentialRefused,
        owner: Subject | None = None,
        *,
        again: bool = False,
    ) -> Credential | None:
        """Keep the one of this caller and scope no longer: it may have been revoked where it was made."""
        self._kept.pop(self._key(caller, scope), None)
        return None

    def known_own(self) -> Credential | None:
        """The credential for ourselves that was had lately; asks nobody."""
        return self._known(())

    def discard_own(self) -> None:
        """Keep the credential for ourselves no longer: its server refused it."""
        self._kept.pop((), None)

    async def own(self) -> Credential | None:
        """A credential for ourselves; None where the server lets us in without. Raises as `obtain`."""
        if not self._own:
            return None
        return self._known(()) or await self._fly((), None, self._for_ourselves)

    def forget(self, which: Callable[[Caller], bool]) -> None:
        """Keep nothing more of the callers that `which` picks."""
        for key, kept in list(self._kept.items()):
            if kept.caller is not None and which(kept.caller):
                del self._kept[key]

    async def close(self) -> None:
        """Stop what is under way."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    def _key(self, caller: Caller, scope: str | None) -> _Key:
        """All that an answer depends on: tokens by the hashes of all their bytes."""
        actor = caller.actor
        return (
            caller.inbound.hash,
            None if actor is None else actor.hash,
            caller.subject,
            caller.chain,
            caller.binding,
            self._rules.audience,
            rule.asked_scope(self._rules, scope),
            self._policy_version,
        )

    def _known(self, key: _Key) -> Credential | None:
        kept = self._kept.get(key)
        if kept is None or self._clock() >= kept.credential.until - MARGIN:
            return None
        self._kept.move_to_end(key)
        return kept.credential

    def _subject_token(self, caller: Caller, token: bytes | None) -> str | None:
        """The caller's token, where it is to be shown; None where we sign a grant instead."""
        if self._rules.subject == "gateway":
            return None
        rule.check_subject_token(self._rules, caller)
        if token is None or digest(token) != caller.inbound.hash:
            raise UpstreamFailed(
                "the caller's own token is not at hand for its authorization server"
            )
        return token.decode("ascii")

    async def _fly(
        self, key: _Key, caller: Caller | None, ask: Callable[[], Awaitable[Credential]]
    ) -> Credential:
        flight = self._flights.get(key)
        if flight is None:
            if len(self._flights) >= WAITING:
                raise UpstreamFailed("too many wait for its authorization server")
            flight = asyncio.create_task(self._attempt(key, caller, ask))
            self._flights[key] = flight
            flight.add_done_callback(lambda _: self._flights.pop(key, None))
        # Shielded: a caller who goes away must not take the others' answer along.
        outcome = await asyncio.shield(flight)
        if isinstance(outcome, Credential):
            return outcome
        if isinstance(outcome, AnswerRefused):
            raise AnswerRefused(outcome.reason, outcome.difference)
        raise type(outcome)(str(outcome))

    async def _attempt(
        self, key: _Key, caller: Caller | None, ask: Callable[[], Awaitable[Credential]]
    ) -> Credential | UpstreamFailed | Unavailable:
        try:
            async with asyncio.timeout(self._deadline):
                found = await ask()
        except TimeoutError:
            return UpstreamFailed(
                f"its authorization server did not answer within {self._deadline:g} seconds"
            )
        except (UpstreamFailed, Unavailable) as error:
            return error
        if caller is None or not self._revoked(caller):
            remember(self._kept, key, _Kept(found, caller), KEPT)
        return found

    async def _exchange(
        self, caller: Caller, subject_token: str | None, scope: str | None
    ) -> Credential:
        rules = self._rules
        if subject_token is None:
            subject_token = await self._grant(caller, scope)
        wanted = rule.expected(rules, caller, scope)
        form = rule.first_request(rules, subject_token, scope)
        if rules.grant in TWO_STEPS:
            answer = await self._ask(self._first, form, is_grant=True)
            grant = await self._first.read_grant(answer.token, self._clock())
            wanted = check_grant(rules, wanted, answer, grant, self._clock())
            form = rule.second_request(rules, answer.token, scope)
        return await self._checked(form, wanted)

    async def _for_ourselves(self) -> Credential:
        wanted = rule.expected_of_own(self._rules, self._clock())
        return await self._checked(rule.own_request(self._rules), wanted)

    async def _checked(self, form: Mapping[str, str], wanted: Expected) -> Credential:
        answer = await self._ask(self._last, form, is_grant=False)
        read = await self._last.read(answer.token, self._clock())
        return check_credential(self._rules, wanted, answer, read, self._clock())

    async def _ask(
        self, server: AuthorizationServer, form: Mapping[str, str], *, is_grant: bool
    ) -> TokenAnswer:
        status, document = await server.request(form)
        return read_answer(status, document, self._rules, is_grant=is_grant)

    async def _grant(self, caller: Caller, scope: str | None) -> str:
        claims = rule.grant_claims(
            self._rules,
            caller,
            scope,
            now=int(self._clock()),
            jti=b64url(self._random(16)),
            txn="t-" + b64url(self._random(12)),
        )
        return (await self._sign(claims)).decode("ascii")
