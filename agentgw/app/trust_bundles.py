"""The bundles of the configured SPIFFE trust domains, kept through reloads and kept fresh."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path

import httpx2

from agentgw.config.model import Config
from agentgw.identity.spiffe import SpiffeBundle

_log = logging.getLogger("agentgw")


class TrustBundles:
    """One bundle per trust domain and source. `client` stays its owner's."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client
        self._known: dict[tuple[str, Path | str], SpiffeBundle] = {}
        self._said: dict[str, str | None] = {}

    def of(self, config: Config) -> Mapping[str, SpiffeBundle]:
        """The bundles of a configuration by trust domain; what was read of one before is kept."""
        wanted = {(name, domain.source) for name, domain in config.spiffe.items()}
        for place in wanted - self._known.keys():
            self._known[place] = SpiffeBundle(place[1], self._client, dev=config.dev)
        return {name: self._known[name, domain.source] for name, domain in config.spiffe.items()}

    async def refresh(self, bundles: Mapping[str, SpiffeBundle]) -> bool:
        """Read those of `bundles` whose time has come. True where authorities changed; never fails."""
        changed = await asyncio.gather(*(bundle.refresh() for bundle in bundles.values()))
        for name, bundle in bundles.items():
            if bundle.problem is not None and self._said.get(name) != bundle.problem:
                _log.warning("trust domain %s: %s; it will be asked again", name, bundle.problem)
            self._said[name] = bundle.problem
        self._known = {
            place: bundle for place, bundle in self._known.items() if bundle in bundles.values()
        }
        return any(changed)
