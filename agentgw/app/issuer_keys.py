"""The keys of issuers, kept over reloads for as long as the configuration names them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection

from agentgw.app.outbound import HttpClients
from agentgw.identity.oidc import OidcKeys

Place = tuple[str, str | None]
"""An issuer identifier and its configured `jwks_uri`, if it has one."""

_log = logging.getLogger("agentgw")


class IssuerKeys:
    """One OidcKeys for each place. `http` is shared and stays its owner's."""

    def __init__(self, http: HttpClients) -> None:
        self._http = http
        self._keys: dict[Place, OidcKeys] = {}

    def at(self, place: Place, dev: bool) -> OidcKeys:
        """The keys at this place; the same ones each time."""
        if place not in self._keys:
            issuer, jwks_uri = place
            self._keys[place] = OidcKeys(
                issuer, self._http.of(issuer, jwks_uri), jwks_uri=jwks_uri, dev=dev
            )
        return self._keys[place]

    def keep_only(self, places: Collection[Place]) -> None:
        """Forget the keys of all others; who waits for them still gets them."""
        self._keys = {place: keys for place, keys in self._keys.items() if place in places}

    async def warm(self) -> None:
        """Fetch all keys; never fails."""
        fetching = (keys.warm() for keys in self._keys.values())
        await asyncio.gather(*fetching, return_exceptions=True)

    def tell_problems(self) -> None:
        """Log the issuers whose keys could not be had."""
        for (issuer, _), keys in self._keys.items():
            if keys.problem is not None:
                _log.warning("issuer %s: %s; it will be asked again", issuer, keys.problem)

    async def close(self) -> None:
        """Stop what is under way."""
        await asyncio.gather(*(keys.aclose() for keys in self._keys.values()))
