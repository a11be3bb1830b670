"""Sign-ins that the identity provider can be asked about again, for as long as a login stands on them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from agentgw.core.connected import Opened, Place
from agentgw.core.login_grants import SignInEnded
from agentgw.core.principal import Issued
from agentgw.core.recheck import (
    Bounds,
    Known,
    Renewed,
    SignInOver,
    place_of,
    read_known,
    sign_in_key,
    sign_in_of,
)
from agentgw.core.recorder import Recorder
from agentgw.core.sign_in import Flow, Person, Proven
from agentgw.errors import InvalidToken, OAuthError, Unreadable, UpstreamFailed

CLAIM_SECONDS = 30.0
"""How long the others wait for the worker that asks. It must be longer than asking may take."""

LOOK_SECONDS = 0.1
RETRY_SECONDS = 5.0
"""How long a provider that could not be asked is left alone."""

_log = logging.getLogger("agentgw")


class Vault(Protocol):
    """Where sign-ins are kept, sealed; calls block on the disk. All raise Unavailable, `open` Unreadable."""

    def open(self, place: Place) -> Opened | None: ...
    def put(self, place: Place, content: Mapping[str, Any]) -> None: ...
    def claim(self, place: Place, version: int, seconds: float) -> bool: ...
    def replace(self, place: Place, version: int, content: Mapping[str, Any]) -> bool: ...
    def release(self, place: Place, version: int) -> None: ...


class RelyingParty(Protocol):
    """Where people sign in. Both raise UpstreamFailed, `renew` SignInOver, `who` InvalidToken."""

    @property
    def issuer(self) -> str: ...

    @property
    def client_id(self) -> str: ...

    async def renew(self, known: Known) -> Renewed: ...

    async def who(self, renewed: Renewed, known: Known) -> Person: ...


class SignIns:
    """Keeps what the provider gave at sign-in, and asks it again before a login goes on.

    `party` is where people sign in now, `vault` is made on first use. `clock` gives Unix seconds.
    """

    def __init__(
        self,
        vault: Callable[[], Vault],
        party: Callable[[], RelyingParty | None],
        bounds: Callable[[], Bounds],
        *,
        recorder: Recorder,
        clock: Callable[[], float],
    ) -> None:
        self._vault = vault
        self._party = party
        self._bounds = bounds
        self._recorder = recorder
        self._clock = clock
        self._failed_at = float("-inf")
        self._flights: dict[Place, asyncio.Task[Known]] = {}

    async def keep(self, proven: Proven, sid: str, flow: Flow, client_id: str) -> None:
        """Keep the provider's refresh token of a sign-in, if it gave one. Raises Unavailable."""
        if proven.refresh is None:
            return
        person, now = proven.person, int(self._clock())
        known = Known(proven.refresh, client_id, flow.nonce, now, person)
        place = place_of(person.subject, flow.issuer, sign_in_key(sid))
        await asyncio.to_thread(self._vault().put, place, known.content())

    async def today(self, login: Issued) -> Issued:
        """A login for who its user is by now: the provider is asked where it was not lately.

        Raises SignInEnded where it says that this is over, another OAuthError where the login must end or
        wait, Unavailable.
        """
        party, sign_in, now = self._party(), sign_in_of(login), self._clock()
        if party is None:
            raise OAuthError("invalid_grant", "nobody signs in here any more")
        bounds = self._bounds()
        found = None
        if sign_in is not None:
            place = place_of(login.subject, party.issuer, sign_in)
            found = await self._read(place)
        if found is None or found.content["client_id"] != party.client_id:
            if now >= login.iat + bounds.max_age:
                raise OAuthError(
                    "invalid_grant",
                    "the identity provider cannot be asked about this login, which has reached "
                    "login.max_age: have the user sign in again",
                )
            return login
        known = read_known(found.content)
        if not now < known.checked + bounds.recheck:
            known = await self._asked(party, place, found, login, bounds)
        return known.lay_over(login)

    async def close(self) -> None:
        """Wait for what is under way: a refresh token that was spent must not be lost."""
        await asyncio.gather(*self._flights.values(), return_exceptions=True)

    async def _asked(
        self, party: RelyingParty, place: Place, found: Opened, login: Issued, bounds: Bounds
    ) -> Known:
        """What the provider says now, or said lately enough while it cannot be asked."""
        known = read_known(found.content)
        try:
            if self._clock() < self._failed_at + RETRY_SECONDS:
                raise UpstreamFailed("it could not be asked a moment ago")
            return await self._flight(party, place, found)
        except SignInOver:
            raise SignInEnded(login.jti, place.resource) from None
        except InvalidToken as error:
            _log.error("the identity provider's answer about a sign-in: %s", error.reason)
            raise OAuthError(
                "invalid_grant", "the identity provider's answer does not prove who the user is"
            ) from None
        except UpstreamFailed as error:
            if self._clock() < known.checked + bounds.limit:
                _log.warning("logins go on by what the identity provider said: %s", error.reason)
                return known
            raise OAuthError(
                "temporarily_unavailable",
                "the identity provider cannot be asked whether this login still holds: try later",
                status=503,
            ) from None

    async def _flight(self, party: RelyingParty, place: Place, found: Opened) -> Known:
        """One question for all who wait. Shielded: a client that goes away must not take a token along
        that was spent."""
        flight = self._flights.get(place)
        if flight is None:
            flight = asyncio.create_task(self._ask_or_wait(party, place, found))
            self._flights[place] = flight
            flight.add_done_callback(lambda done: self._landed(place, done))
        return await asyncio.shield(flight)

    def _landed(self, place: Place, flight: asyncio.Task[Known]) -> None:
        self._flights.pop(place, None)
        if not flight.cancelled():
            flight.exception()  # those who asked may all have gone away

    async def _ask_or_wait(self, party: RelyingParty, place: Place, found: Opened) -> Known:
        try:
            async with asyncio.timeout(CLAIM_SECONDS):
                vault = self._vault()
                while not await asyncio.to_thread(vault.claim, place, found.version, CLAIM_SECONDS):
                    now = await self._read(place)
                    if now is None:
                        raise UpstreamFailed("the sign-in was forgotten meanwhile")
                    if now.version != found.version:
                        return read_known(now.content)
                    await asyncio.sleep(LOOK_SECONDS)
                return await self._ask(party, place, found)
        except TimeoutError:
            raise UpstreamFailed("it did not answer in time") from None

    async def _ask(self, party: RelyingParty, place: Place, found: Opened) -> Known:
        """Ask, as the one who holds the claim; what came of it is kept before anybody is told."""
        vault, known = self._vault(), read_known(found.content)
        try:
            renewed = await party.renew(known)
        except BaseException as error:
            if isinstance(error, UpstreamFailed) and not isinstance(error, SignInOver):
                self._failed_at = self._clock()
            await asyncio.to_thread(vault.release, place, found.version)
            raise
        # The old token may be spent: the new one is kept, whatever the answer says of the user.
        fresh = replace(known, refresh=renewed.refresh)
        try:
            person = await party.who(renewed, known)
            fresh = replace(fresh, person=person, checked=int(self._clock()))
        finally:
            await asyncio.to_thread(vault.replace, place, found.version, fresh.content())
        if person != known.person:
            await self._note(place, known.person, person)
        return fresh

    async def _note(self, place: Place, before: Person, after: Person) -> None:
        """The durable record of who a user has become."""
        await self._recorder.record(
            "login/recheck",
            subject=after.subject,
            detail={
                "sign_in": place.resource,
                "left": sorted(before.groups - after.groups),
                "joined": sorted(after.groups - before.groups),
            },
        )

    async def _read(self, place: Place) -> Opened | None:
        """What is kept of a sign-in; one that does not open counts as none."""
        try:
            return await asyncio.to_thread(self._vault().open, place)
        except Unreadable as error:
            _log.error("a sign-in counts as one that cannot be asked about: %s", error)
            return None
