"""Agents that must stand behind each of their requests in person (`require: client`).

A bearer token works for whoever holds it. Of these agents it works only over a connection on which the
agent itself has shown its certificate, by one of its own ways to authenticate: the certificate that
proves it at the token endpoint. The token need not be bound to it, so tokens of issuers that cannot
bind any are protected as well.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from agentgw.core.certificate import ClientCertificate
from agentgw.core.principal import Caller
from agentgw.core.recent import remember
from agentgw.errors import InvalidToken
from agentgw.http.request import Scope

REMEMBERED_SECONDS = 5.0
_REMEMBERED = 1000


class Presence:
    """Judges requests of the `agents` of which a certificate is demanded, by configured name.

    `certificate_of` gives the certificate of a request's client, and may raise RefusedRequest;
    `proves(agent, certificate)` raises InvalidToken where it is not the agent's; `clock` gives Unix
    seconds. A certificate that was found to prove its agent does so for `REMEMBERED_SECONDS` more.
    """

    def __init__(
        self,
        agents: frozenset[str],
        certificate_of: Callable[[Scope], ClientCertificate | None],
        proves: Callable[[str, ClientCertificate], None],
        clock: Callable[[], float],
    ) -> None:
        self._agents = agents
        self._certificate_of = certificate_of
        self._proves = proves
        self._clock = clock
        self._known: OrderedDict[tuple[str, ClientCertificate], float] = OrderedDict()

    def check(self, caller: Caller, scope: Scope) -> None:
        """Refuse a request of such an agent that it did not make itself. Raises InvalidToken."""
        agent = caller.chain[0].agent if caller.chain else None
        if agent is None or agent not in self._agents:
            return
        certificate = self._certificate_of(scope)
        if certificate is None:
            raise InvalidToken(
                "the agent's requests need its own TLS certificate (require: client), and none came"
            )
        now = self._clock()
        if now < self._known.get((agent, certificate), 0.0):
            return
        try:
            self._proves(agent, certificate)
        except InvalidToken as error:
            raise InvalidToken(
                f"the agent's requests need its own TLS certificate: {error.reason}"
            ) from None
        remember(self._known, (agent, certificate), now + REMEMBERED_SECONDS, _REMEMBERED)
