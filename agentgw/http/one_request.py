"""Taking up a hand-over in the request that uses it: two tokens, no exchange of the agent's own.

`Authorization` holds the agent's own token, `Agentgw-Subject-Token` the hand-over. What follows is an
exchange like any other, recorded and kept in the ledger, whose token nobody needs to see.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from agentgw.core.canonical import digest
from agentgw.core.claims import MIN_LIFE
from agentgw.core.exchange import Exchanged
from agentgw.core.exchange_request import ACCESS_TOKEN, ExchangeRequest
from agentgw.core.possession import BARE, Presented
from agentgw.core.principal import EVIDENCE, Caller, Inbound
from agentgw.core.recent import remember
from agentgw.errors import InvalidToken, OAuthError
from agentgw.http.request import RefusedRequest
from agentgw.sts.clients import AuthenticatedClient

HEADER = b"agentgw-subject-token"
CACHE_SIZE = 10_000
REFUSED_LIFE = 3
"""Seconds for which the same refused pair is refused again without another exchange and record."""

MAX_UNDER_WAY = 64
"""Exchanges at a time, as many as the token endpoint makes."""

_PROVEN = EVIDENCE.index("client-auth")
_Key = tuple[str, bytes, str]


class Exchange(Protocol):
    """The exchange of the token endpoint. Raises OAuthError or Unavailable."""

    async def take_up(
        self,
        asked: ExchangeRequest,
        client: AuthenticatedClient,
        source: str,
        user_agent: str | None,
        presented: Presented,
    ) -> Exchanged: ...


@dataclass(frozen=True, slots=True)
class _Known:
    caller: Caller
    until: float


class OneRequest:
    """Makes the caller that agent and hand-over are together; the same two cost one exchange.

    `public_url` is our issuer and the root of our resources, `clock` gives Unix seconds. A reload makes
    a new one, so that nothing remembered survives it.
    """

    def __init__(self, exchange: Exchange, public_url: str, clock: Callable[[], float]) -> None:
        self._exchange = exchange
        self._public_url = public_url
        self._clock = clock
        self._known: OrderedDict[_Key, _Known] = OrderedDict()
        self._refused: OrderedDict[_Key, tuple[float, str]] = OrderedDict()
        self._under_way: dict[_Key, asyncio.Task[Caller]] = {}

    async def caller(
        self,
        agent: Caller,
        hand_over: bytes,
        server: str | None,
        source: str | None,
        user_agent: str | None,
    ) -> Caller:
        """The caller of a request to `server` (None: `/mcp`) by `agent`, who was handed `hand_over`.

        Raises InvalidToken where the exchange would be refused, Unavailable where it cannot be kept,
        RefusedRequest (429) where too many are under way.
        """
        target = f"{self._public_url}/mcp" + ("" if server is None else f"/{server}")
        key = (agent.inbound.hash, hashlib.sha256(hand_over).digest(), target)
        known = self._known.get(key)
        if known is not None and self._clock() < known.until:
            self._known.move_to_end(key)
            return known.caller
        refused = self._refused.get(key)
        if refused is not None and self._clock() < refused[0]:
            raise InvalidToken(refused[1])
        task = self._under_way.get(key)
        if task is None:
            if len(self._under_way) >= MAX_UNDER_WAY:
                raise RefusedRequest(429, "too many hand-overs are being taken up: try again")
            asked = ExchangeRequest(_text(hand_over), target, None, ACCESS_TOKEN)
            task = asyncio.create_task(self._take_up(key, agent, asked, source, user_agent))
            self._under_way[key] = task
            task.add_done_callback(lambda done: self._landed(key, done))
        return await asyncio.shield(task)

    def forget(self, which: Callable[[Caller], bool]) -> None:
        """Remember no more the callers that `which` picks."""
        for key in [key for key, known in self._known.items() if which(known.caller)]:
            del self._known[key]

    async def _take_up(
        self,
        key: _Key,
        agent: Caller,
        asked: ExchangeRequest,
        source: str | None,
        user_agent: str | None,
    ) -> Caller:
        client = client_of(agent)
        try:
            # What the agent's own token is bound to was proven at the door, and is each time.
            held = agent.binding
            proven = BARE if held is None else Presented(held.jkt, held.x5t)
            made = await self._exchange.take_up(asked, client, source or "", user_agent, proven)
        except OAuthError as error:
            reason = f"the Agentgw-Subject-Token was refused: {error.description}"
            remember(self._refused, key, (self._clock() + REFUSED_LIFE, reason), CACHE_SIZE)
            raise InvalidToken(reason) from None
        caller = self._caller(made, agent, asked)
        remember(self._known, key, _Known(caller, caller.exp - MIN_LIFE), CACHE_SIZE)
        return caller

    def _caller(self, made: Exchanged, agent: Caller, asked: ExchangeRequest) -> Caller:
        issued = made.issued
        return Caller(
            subject=issued.subject,
            chain=issued.chain,
            scopes=issued.scopes,
            resources=frozenset({issued.audience}),
            exp=min(issued.exp, agent.exp),
            inbound=Inbound(
                self._public_url, issued.jti, digest(asked.subject_token.encode("ascii"))
            ),
            presenter=issued.presenter,
            groups=issued.groups,
            txn=issued.txn,
            acr=issued.acr,
            auth_time=issued.auth_time,
            claims=made.claims,
            details=issued.details,
            receipts=issued.receipts,
            actor=agent.inbound,
            binding=agent.binding,
            consent=issued.consent,
        )

    def _landed(self, key: _Key, task: asyncio.Task[Caller]) -> None:
        self._under_way.pop(key, None)
        if not task.cancelled():
            task.exception()  # whoever asked may be gone, and nobody else would look


def client_of(agent: Caller) -> AuthenticatedClient:
    """The client that the agent's own token proves. Raises InvalidToken where it proves none."""
    if len(agent.chain) != 1:
        raise InvalidToken("beside an Agentgw-Subject-Token, send the agent's own token: no chain")
    hop = agent.chain[0]
    if hop.agent is None:
        raise InvalidToken("beside an Agentgw-Subject-Token, send a registered agent's own token")
    if agent.details is not None:
        raise InvalidToken(
            "beside an Agentgw-Subject-Token, send no token that is for one tool only"
        )
    if EVIDENCE.index(hop.evidence) < _PROVEN:
        raise InvalidToken(
            "nothing proves that the Authorization token's client is the agent: mark that client "
            "confidential, or exchange the hand-over at the token endpoint"
        )
    return AuthenticatedClient(hop.agent, "access_token", hop.evidence)


def _text(token: bytes) -> str:
    try:
        text = token.decode("ascii")
    except UnicodeDecodeError:
        text = ""
    if not text or not text.isprintable() or " " in text or "," in text:
        raise InvalidToken("the Agentgw-Subject-Token header holds no token")
    return text
