"""Credentials of tool servers at which the gateway has one account of its own, for all who call."""

from __future__ import annotations

from agentgw.core.external_exchange import Credential
from agentgw.core.principal import Caller, Subject
from agentgw.errors import CredentialRefused, UpstreamFailed
from agentgw.upstream.external_sts import ExternalSts


class OwnAccount:
    """Implements the gateway's Credentials by the client credentials grant (RFC 6749 section 4.4).

    `sts` asks, checks and keeps. The server sees the gateway and nobody behind it.
    """

    def __init__(self, sts: ExternalSts) -> None:
        self._sts = sts

    def lookup(
        self, caller: Caller, scope: str | None, owner: Subject | None = None
    ) -> Credential | None:
        """The one at hand, whoever calls."""
        return self._sts.known_own()

    async def obtain(
        self, caller: Caller, token: bytes | None, scope: str | None, owner: Subject | None = None
    ) -> Credential:
        """The one there is, made where it is not. Raises UpstreamFailed."""
        made = await self._sts.own()
        if made is None:
            raise UpstreamFailed("it takes no account of the gateway's")
        return made

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
        """Keep it no longer: the next call has a new one made."""
        if refused is None or self._sts.known_own() == refused:
            self._sts.discard_own()
        return None

    async def own(self) -> Credential | None:
        """The same. Raises as `obtain`."""
        return await self._sts.own()
