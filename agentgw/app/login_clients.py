"""The clients that may send users to us."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from agentgw.app.document_clients import DocumentClients
from agentgw.app.outbound import HttpClients
from agentgw.app.tables import Tables
from agentgw.authz.client_documents import ClientDocuments
from agentgw.config.model import Config
from agentgw.core.client_metadata import ClientMetadata, is_metadata_url, matches
from agentgw.core.oauth_client import ClientKind, OAuthClient
from agentgw.identity import jose
from agentgw.registry.dynamic_clients import DynamicClients
from agentgw.sts.client_auth.assertion import AssertionCheck


class LoginClients:
    """Clients by `client_id`: those of the operator's file, those with a document at their `client_id`, and
    those that registered themselves.

    `config` gives the configuration in use now, `http` fetches documents and keys and `tables` remember what
    is to be kept; both stay their owner's. `clock` gives Unix seconds.
    """

    def __init__(
        self,
        config: Callable[[], Config],
        http: HttpClients,
        tables: Tables,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config

        def dev() -> bool:
            return config().dev

        self._documents = ClientDocuments(http.guarded, time.monotonic, dev)
        check = AssertionCheck(config().public_url, jose.verify, tables.used, clock)
        self._keyed = DocumentClients(self.find, check, http.guarded, dev)
        self._dynamic = DynamicClients(tables.engine)
        self._clock = clock

    async def find(self, client_id: str) -> OAuthClient | None:
        """The client of that id, None where there is none.

        Raises OAuthError where its document cannot be had or used, Unavailable where nobody can tell.
        """
        config = self._config()
        if config.login is None:
            return None
        if client_id in config.agents:
            return registered(config, client_id)
        agent = agent_of_document(config, client_id)
        if agent is not None:
            metadata = await self._documents.get(client_id)
            host = urlsplit(client_id).hostname or ""
            return _client(client_id, agent, "metadata", metadata, host)
        if self.agent is None:
            return None
        now = int(self._clock())
        kept = await asyncio.to_thread(self._dynamic.find, client_id, now)
        return None if kept is None else _client(client_id, self.agent, "dynamic", kept)

    async def prove(self, form: Mapping[str, str]) -> OAuthClient | None:
        """The client with a document whose key made the form's client_assertion; see DocumentClients."""
        return await self._keyed.prove(form)

    @property
    def agent(self) -> str | None:
        """The agent that clients are which register themselves, None where nobody may."""
        return dynamic_agent(self._config())

    @property
    def reads_documents(self) -> bool:
        """Whether a client may be known by a document at its `client_id`."""
        agents = self._config().agents.values()
        return any(agent.login and agent.login.client_metadata for agent in agents)

    async def register(self, client_id: str, metadata: ClientMetadata) -> None:
        """Keep a client that registered itself. Raises Unavailable."""
        await asyncio.to_thread(self._dynamic.add, client_id, metadata, int(self._clock()))

    async def close(self) -> None:
        """Stop what is under way."""
        await self._documents.close()
        await self._keyed.close()


def registered(config: Config, client_id: str) -> OAuthClient | None:
    """The client of the operator's file whose id is its agent's name."""
    agent = config.agents.get(client_id)
    if config.login is None or agent is None or agent.login is None:
        return None
    return OAuthClient(
        client_id,
        client_id,
        client_id,
        "registered",
        agent.login.redirect_uris,
        public=agent.auth is None,
    )


def agent_of_document(config: Config, client_id: str) -> str | None:
    """The agent that the client with a document at `client_id` is: that of the longest pattern."""
    if not is_metadata_url(client_id, plain_http=config.dev):
        return None
    fitting = [
        (len(pattern), not pattern.endswith("*"), name)
        for name, agent in config.agents.items()
        if agent.login is not None
        for pattern in agent.login.client_metadata
        if matches(client_id, pattern)
    ]
    return max(fitting)[2] if fitting else None


def dynamic_agent(config: Config) -> str | None:
    """The agent that clients are which register themselves."""
    if config.login is None:
        return None
    found = (name for name, agent in config.agents.items() if agent.login and agent.login.dynamic)
    return next(found, None)


def _client(
    client_id: str, agent: str, kind: ClientKind, metadata: ClientMetadata, host: str = ""
) -> OAuthClient:
    return OAuthClient(
        client_id,
        agent,
        metadata.name,
        kind,
        metadata.redirect_uris,
        metadata.public,
        host,
        metadata.keys,
        metadata.jwks_uri,
    )
