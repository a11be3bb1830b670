"""Credentials of tool servers at which each user has an account of their own, connected by themselves.

One credential belongs to one user, authorization server, tool server and resource; it is sent nowhere
else. Here they are taken from the vault, refreshed and given up; how they come in is connecting.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from agentgw.core import upstream_oauth as rule
from agentgw.core.connected import Account, Place, account_key, content_of
from agentgw.core.external_exchange import Credential
from agentgw.core.principal import Caller, Subject
from agentgw.core.recent import remember
from agentgw.core.upstream_oauth import Endpoints, GrantSpent
from agentgw.errors import (
    ConnectRequired,
    CredentialRefused,
    Unavailable,
    Unreadable,
    UpstreamFailed,
)
from agentgw.upstream.oauth_client import OAuthClient

MARGIN = 10.0
"""Seconds before its end in which a credential is used no more: a call takes its time."""

KEPT = 10_000
KEPT_SECONDS = 30.0
"""How long a worker trusts its memory of a row: what another worker dropped is used no longer than that."""

CLAIM_SECONDS = 30.0
"""How long the others wait for the worker that refreshes. It must be longer than a refresh may take."""

LOOK_SECONDS = 0.1

_log = logging.getLogger("agentgw.upstream")


class Vault(Protocol):
    """Where accounts are kept; calls block on the disk and raise Unavailable. See registry/vault.py."""

    def get(self, place: Place) -> Account | None: ...
    def latest(self, issuer: str, server: str, resource: str) -> Place | None: ...
    def put(self, place: Place, content: Mapping[str, Any]) -> None: ...
    def claim(self, place: Place, version: int, seconds: float) -> bool: ...
    def replace(self, place: Place, version: int, content: Mapping[str, Any]) -> bool: ...
    def release(self, place: Place, version: int) -> None: ...
    def drop(self, place: Place, version: int | None = None) -> bool: ...


@dataclass(frozen=True, slots=True)
class _Kept:
    account: Account
    until: float


class UserOAuth:
    """Implements the gateway's Credentials for one tool server. A reload makes a new one.

    `invite` makes the link by which a user connects with some scopes, and gives it. `gone` tells of an
    account that its user disconnected, by its `account_key`, and `barred` of a user who was revoked. `clock`
    is Unix seconds. `lists` says whether lists are asked for with the account connected last.
    """

    def __init__(
        self,
        server: str,
        client: OAuthClient,
        vault: Vault,
        invite: Callable[[Subject, str, frozenset[str]], str],
        *,
        gone: Callable[[str], bool],
        barred: Callable[[Subject], bool],
        clock: Callable[[], float],
        lists: bool = True,
    ) -> None:
        self._server = server
        self._client = client
        self._vault = vault
        self._invite = invite
        self._gone = gone
        self._barred = barred
        self._clock = clock
        self._lists = lists
        self._kept: OrderedDict[Place, _Kept] = OrderedDict()
        self._flights: dict[Place, asyncio.Task[Account | UpstreamFailed | Unavailable]] = {}

    def lookup(
        self, caller: Caller, scope: str | None, owner: Subject | None = None
    ) -> Credential | None:
        """The one used lately for the caller's user, or for `owner`; asks nobody."""
        whose = _whose(caller, owner)
        found = self._client.known
        if whose is None or found is None:
            return None
        place = self._place(whose, found.endpoints.issuer)
        kept = self._kept.get(place)
        now = self._clock()
        if kept is None or now >= kept.until or _ends(kept.account, now):
            return None
        if self._gone(account_key(place, kept.account.connected)):
            return None
        self._kept.move_to_end(place)
        return self._credential(place, kept.account, whose is owner)

    async def obtain(
        self, caller: Caller, token: bytes | None, scope: str | None, owner: Subject | None = None
    ) -> Credential:
        """The one of the caller's user, or of `owner`, refreshed where it ended.

        Raises ConnectRequired where there is none, UpstreamFailed, or Unavailable.
        """
        whose = _whose(caller, owner)
        if whose is None:
            raise ConnectRequired(
                f"{self._server} knows people by accounts of their own, and no grant says whose this "
                "agent may use",
                frozenset(),
            )
        found = await self._client.find()
        place = self._place(whose, found.endpoints.issuer)
        account = await read(self._vault, place)
        if account is None or account.client_id != self._client.client_id:
            wanted = found.challenge.scopes
            await self._ask_to_connect(whose, owner, wanted)
        elif _ends(account, self._clock()):
            account = await self._refreshed(place, account, found.endpoints, whose, owner)
        self._keep(place, account)
        return self._credential(place, account, whose is owner)

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
        """Another credential in place of the one the server refused; None where that would not help.

        One that ended there is refreshed once; where that does not help, the account is disconnected. More
        scope is only to be had by connecting again. Raises as `obtain`.
        """
        whose = _whose(caller, owner)
        if whose is None or refused is None:
            return None
        found = await self._client.find(anew=True)
        place = self._place(whose, found.endpoints.issuer)
        self._kept.pop(place, None)
        account = await read(self._vault, place)
        challenge = rule.read_challenge(error.challenge)
        if error.status == 403:
            held = frozenset[str]() if account is None else account.scopes
            if challenge.error == "insufficient_scope" and challenge.scopes - held:
                await self._ask_to_connect(whose, owner, held | challenge.scopes)
            return None
        if account is None:
            await self._ask_to_connect(whose, owner, challenge.scopes)
        if account.access.encode("ascii") == refused.token:
            if again:
                await asyncio.to_thread(self._vault.drop, place, account.version)
                await self._ask_to_connect(whose, owner, account.scopes)
            account = await self._refreshed(place, account, found.endpoints, whose, owner)
        self._keep(place, account)
        return self._credential(place, account, whose is owner)

    async def own(self) -> Credential | None:
        """That of whoever used theirs last, else of who connected last, for lists; None where nobody
        has who may still call, or lists go without. Raises UpstreamFailed or Unavailable.
        """
        if not self._lists:
            return None
        found = await self._client.find()
        issuer, resource = found.endpoints.issuer, self._client.resource
        latest = await asyncio.to_thread(self._vault.latest, issuer, self._server, resource)
        used = next(reversed(self._kept), None)
        for place in dict.fromkeys(place for place in (used, latest) if place is not None):
            if self._barred(Subject(place.user_iss, place.user_sub, "")):
                continue
            account = await read(self._vault, place)
            if account is None or account.client_id != self._client.client_id:
                continue
            try:
                if _ends(account, self._clock()):
                    account = await self._refreshed(place, account, found.endpoints, None, None)
            except ConnectRequired:
                continue
            return self._credential(place, account, True)
        return None

    def forget(self) -> None:
        """Keep no account that was disconnected."""
        for place in [
            place
            for place, kept in self._kept.items()
            if self._gone(account_key(place, kept.account.connected))
        ]:
            del self._kept[place]

    async def close(self) -> None:
        """Wait for what is under way: a refresh token that was spent must not be lost."""
        await asyncio.gather(*self._flights.values(), return_exceptions=True)

    def _place(self, whose: Subject, issuer: str) -> Place:
        return Place(whose.iss, whose.sub, issuer, self._server, self._client.resource)

    def _keep(self, place: Place, account: Account) -> None:
        remember(self._kept, place, _Kept(account, self._clock() + KEPT_SECONDS), KEPT)

    def _credential(self, place: Place, account: Account, borrowed: bool) -> Credential:
        """`borrowed` says that it is not that of the caller's own user."""
        facts = dict(rule.facts_of(place.issuer, place.resource, account.scopes, account.exp))
        if borrowed:
            facts["account_of"] = f"{place.user_iss}|{place.user_sub}"
        until = float("inf") if account.exp is None else float(account.exp)
        # The server sees the user and the gateway's client: no agent of the chain.
        named = account_key(place, account.connected)
        return Credential(account.access.encode("ascii"), facts, "audit-only", until, named)

    async def _ask_to_connect(
        self, whose: Subject | None, owner: Subject | None, scopes: frozenset[str]
    ) -> NoReturn:
        """Raises ConnectRequired, with a link where the user whose account it is is the caller's."""
        link = None
        if whose is not None and whose is not owner:
            link = await asyncio.to_thread(self._invite, whose, self._server, scopes)
        whom = "the user" if owner is None else owner.name
        reason = f"{self._server} wants an account that {whom} connects first"
        raise ConnectRequired(reason, scopes, link)

    async def _refreshed(
        self,
        place: Place,
        account: Account,
        endpoints: Endpoints,
        whose: Subject | None,
        owner: Subject | None,
    ) -> Account:
        """The account with a new access token. One refresh runs for all callers of all workers."""
        flight = self._flights.get(place)
        if flight is None:
            flight = asyncio.create_task(self._attempt(place, account, endpoints))
            self._flights[place] = flight
            flight.add_done_callback(lambda _: self._flights.pop(place, None))
        # Shielded: a caller who goes away must not take a refresh token along that was spent.
        outcome = await asyncio.shield(flight)
        if isinstance(outcome, Account):
            return outcome
        if isinstance(outcome, GrantSpent):
            await self._ask_to_connect(whose, owner, account.scopes)
        raise type(outcome)(str(outcome))

    async def _attempt(
        self, place: Place, account: Account, endpoints: Endpoints
    ) -> Account | UpstreamFailed | Unavailable:
        try:
            return await self._refresh_or_wait(place, account, endpoints)
        except TimeoutError:
            return UpstreamFailed("its authorization server did not refresh the credential in time")
        except (UpstreamFailed, Unavailable) as error:
            return error

    async def _refresh_or_wait(
        self, place: Place, account: Account, endpoints: Endpoints
    ) -> Account:
        """Refresh, or wait for the worker that does. Raises GrantSpent where the account is lost."""
        vault, version = self._vault, account.version
        # Waiting alone is bounded here: a refresh that is broken off has spent its token for nothing.
        async with asyncio.timeout(CLAIM_SECONDS):
            while not await asyncio.to_thread(vault.claim, place, version, CLAIM_SECONDS):
                now = await read(vault, place)
                if now is None:
                    raise GrantSpent("it was disconnected meanwhile")
                if now.version != version:
                    return now
                await asyncio.sleep(LOOK_SECONDS)
        if account.refresh is None:
            await asyncio.to_thread(vault.drop, place, version)
            raise GrantSpent("it ended, and there is no refresh token")
        try:
            tokens = await self._client.refresh(endpoints, account.refresh, self._clock())
        except GrantSpent:
            await asyncio.to_thread(vault.drop, place, version)
            raise
        except BaseException:
            await asyncio.to_thread(vault.release, place, version)
            raise
        content = content_of(tokens, account.client_id, account.scopes, account)
        await asyncio.to_thread(vault.replace, place, version, content)
        fresh = await read(vault, place)
        if fresh is None:
            # Its user let go of the tokens that are replaced now: these must not live on either.
            with contextlib.suppress(UpstreamFailed):
                await self._client.give_up(endpoints, content["refresh"], tokens.access)
            raise GrantSpent("it was disconnected meanwhile")
        return fresh


async def read(vault: Vault, place: Place) -> Account | None:
    """The account at a place. One that does not open counts as none, so that its user can connect anew."""
    try:
        return await asyncio.to_thread(vault.get, place)
    except Unreadable as error:
        _log.error("an account at server %s counts as not connected: %s", place.server, error)
        return None


def _whose(caller: Caller, owner: Subject | None) -> Subject | None:
    """Whose account: that of the user, or the one a grant names; an agent has none of its own."""
    if owner is not None:
        return owner
    return None if caller.subject.agent is not None else caller.subject


def _ends(account: Account, now: float) -> bool:
    return account.exp is not None and now >= account.exp - MARGIN
