from __future__ import annotations

from typing import Any

import pytest

from agentgw.core.certificate import ClientCertificate
from agentgw.core.principal import Caller, Hop, Inbound, Subject
from agentgw.errors import InvalidToken
from agentgw.http.presence import REMEMBERED_SECONDS, Presence

OWN, OTHER = ClientCertificate(b"own"), ClientCertificate(b"other")


def caller(*agents: str | None) -> Caller:
    chain = tuple(Hop(f"id-{name}", name, "exchange") for name in agents)
    subject, inbound = Subject("acme", "alice", "acme|alice"), Inbound("acme", None, "h")
    return Caller(subject, chain, frozenset(), frozenset(), 0, inbound, "p")


class Judge:
    """Knows coder by one certificate, until told otherwise, and counts."""

    def __init__(self) -> None:
        self.asked = 0
        self.now = 0.0
        self.good = {("coder", OWN)}
        self.presence = Presence(
            frozenset({"coder"}), lambda scope: scope["shown"], self._proves, lambda: self.now
        )

    def _proves(self, agent: str, certificate: ClientCertificate) -> None:
        self.asked += 1
        if (agent, certificate) not in self.good:
            raise InvalidToken("not its own")

    def check(self, who: Caller, shown: ClientCertificate | None) -> None:
        scope: dict[str, Any] = {"shown": shown}
        self.presence.check(who, scope)


def test_the_acting_agent_must_show_its_own_certificate() -> None:
    judge = Judge()
    judge.check(caller("coder", "planner"), OWN)
    for shown in (None, OTHER):
        with pytest.raises(InvalidToken, match="own TLS certificate"):
            judge.check(caller("coder"), shown)


def test_others_need_none_nor_does_a_hop_that_handed_over() -> None:
    judge = Judge()
    for who in (caller("planner"), caller("planner", "coder"), caller(None), caller()):
        judge.check(who, None)
    assert judge.asked == 0


def test_what_was_found_good_is_judged_again_after_a_moment() -> None:
    judge = Judge()
    for _ in range(3):
        judge.check(caller("coder"), OWN)
    assert judge.asked == 1
    judge.good.clear()
    judge.now = REMEMBERED_SECONDS
    for _ in range(2):
        with pytest.raises(InvalidToken):
            judge.check(caller("coder"), OWN)
    assert judge.asked == 3
