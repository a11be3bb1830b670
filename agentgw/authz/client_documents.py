"""Client ID metadata documents, fetched and remembered for a while (CIMD)."""

from __future__ import annotations

import asyncio
import json
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx2

from agentgw.core.client_metadata import ClientMetadata, WrongMetadata, read_document
from agentgw.core.recent import remember
from agentgw.errors import OAuthError

DOCUMENT_LIMIT = 5 * 1024
"""Bytes of a document, as the draft recommends."""

SHORTEST, LONGEST = 300.0, 86_400.0
"""Seconds a document counts for at least and at most, whatever its Cache-Control says."""

LAST_RESORT = 3600.0
"""Seconds for which a document goes on counting where its server cannot be reached or fails."""

REFUSED_SECONDS = 5.0
"""Between two fetches where the last one failed: a pause, so that nobody has us hammer others."""

KEPT = 1_000
UNDER_WAY = 20
DEADLINE = 5.0

_MAX_AGE = re.compile(r'max-age="?(\d{1,9})"?')


@dataclass(frozen=True, slots=True)
class _Kept:
    found: ClientMetadata | str
    until: float


class _Away(WrongMetadata):
    """Nothing is known of the document itself: its server failed or cannot be reached."""


class ClientDocuments:
    """Fetches documents by URL with `client`, which guards where it connects to and stays its owner's.

    An answer counts for as long as its Cache-Control says, from `SHORTEST` to `LONGEST`; where its server
    fails then, for an hour more. A document that is gone or wrong counts no more at once. One fetch
    of a URL runs at a time, and `UNDER_WAY` in all. `plain_http` tells whether a document's keys may be on
    loopback over http; `clock` is monotonic seconds.
    """

    def __init__(
        self,
        client: httpx2.AsyncClient,
        clock: Callable[[], float],
        plain_http: Callable[[], bool] = lambda: False,
    ) -> None:
        self._client = client
        self._clock = clock
        self._plain_http = plain_http
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._good: OrderedDict[str, _Kept] = OrderedDict()
        self._flights: dict[str, asyncio.Task[ClientMetadata | str]] = {}

    async def get(self, url: str) -> ClientMetadata:
        """What the client at `url` says of itself. Raises OAuthError (invalid_client_metadata, 400) with the
        reason, or temporarily_unavailable where too many are asked for."""
        kept = self._kept.get(url)
        found = kept.found if kept is not None and self._clock() < kept.until else None
        if found is None:
            found = await self._fly(url)
        if isinstance(found, str):
            description = f"the client's document cannot be used: {found}"
            raise OAuthError("invalid_client_metadata", description)
        return found

    async def close(self) -> None:
        """Stop what is under way."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    async def _fly(self, url: str) -> ClientMetadata | str:
        flight = self._flights.get(url)
        if flight is None:
            if len(self._flights) >= UNDER_WAY:
                raise OAuthError(
                    "temporarily_unavailable",
                    "too many clients' documents are asked for",
                    status=429,
                )
            flight = asyncio.create_task(self._fetch(url))
            self._flights[url] = flight
            flight.add_done_callback(lambda _: self._flights.pop(url, None))
        # Shielded: whoever goes away must not take the others' answer along.
        return await asyncio.shield(flight)

    async def _fetch(self, url: str) -> ClientMetadata | str:
        found: ClientMetadata | str
        life = REFUSED_SECONDS
        try:
            async with asyncio.timeout(DEADLINE):
                document, life = await self._ask(url)
            found = read_document(document, url, self._plain_http())
        except TimeoutError:
            found = self._last_good(url, f"it did not arrive within {DEADLINE:g} seconds")
        except _Away as error:
            found = self._last_good(url, str(error))
        except WrongMetadata as error:
            self._good.pop(url, None)
            found, life = str(error), REFUSED_SECONDS
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            found = self._last_good(url, f"it cannot be fetched ({type(error).__name__})")
        else:
            until = self._clock() + life + LAST_RESORT
            remember(self._good, url, _Kept(found, until), KEPT)
        remember(self._kept, url, _Kept(found, self._clock() + life), KEPT)
        return found

    def _last_good(self, url: str, problem: str) -> ClientMetadata | str:
        """What counted last, where it may still; else the problem."""
        good = self._good.get(url)
        return good.found if good is not None and self._clock() < good.until else problem

    async def _ask(self, url: str) -> tuple[Any, float]:
        """The document, and the seconds it counts for."""
        # Uncompressed, so that the limit counts what we would hold.
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        body = bytearray()
        async with self._client.stream("GET", url, headers=headers) as response:
            if response.status_code in (408, 429) or response.status_code >= 500:
                raise _Away("invalid_client_metadata", f"its server said {response.status_code}")
            if response.status_code != 200:
                raise _unusable(f"the answer was {response.status_code}, no 200")
            kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json" and not kind.endswith("+json"):
                raise _unusable("it is no application/json")
            if response.headers.get("content-encoding", "identity") != "identity":
                raise _unusable("it came compressed")
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > DOCUMENT_LIMIT:
                    raise _unusable(f"it is larger than {DOCUMENT_LIMIT} bytes")
        try:
            document = json.loads(body.decode("utf-8"), object_pairs_hook=_unique)
        except (ValueError, RecursionError):
            raise _unusable("it is no JSON that can be read in one way only") from None
        return document, life_of(response.headers.get("cache-control", ""))


def life_of(cache_control: str) -> float:
    """The seconds a document counts for by its Cache-Control (RFC 9111 section 5.2.2), within our bounds."""
    words = [word.strip().lower() for word in cache_control.split(",")]
    if "no-store" in words or "no-cache" in words:
        return SHORTEST
    ages = [int(match[1]) for word in words if (match := _MAX_AGE.fullmatch(word))]
    return min(max(ages[0], SHORTEST), LONGEST) if len(ages) == 1 else SHORTEST


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member stands twice")
    return found


def _unusable(reason: str) -> WrongMetadata:
    return WrongMetadata("invalid_client_metadata", reason)
