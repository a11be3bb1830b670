"""What is kept of another server's credentials: one request for those who are the same, none for a hit."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from agentgw.core.external_answer import ReadToken
from agentgw.core.possession import Binding
from agentgw.core.principal import Caller, Hop, Inbound
from agentgw.errors import UpstreamFailed
from agentgw.upstream import external_sts
from agentgw.upstream.external_sts import MARGIN, ExternalSts
from tests.core.test_external_exchange import CODER, IDP, NOW, RULES, caller

pytestmark = pytest.mark.anyio
OURS = dataclasses.replace(RULES, subject="gateway", act_optional=True)


class Server:
    """Answers each form with a token of its own, once `open`."""

    def __init__(self) -> None:
        self.asked: list[Mapping[str, str]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.life = 120

    async def request(self, form: Mapping[str, str]) -> tuple[int, Any]:
        self.asked.append(form)
        await self.open.wait()
        token = f"t{len(self.asked)}"
        return 200, {"access_token": token, "token_type": "Bearer", "expires_in": self.life}

    async def read(self, token: str, now: float) -> ReadToken | None:
        claims = {"sub": "alice", "aud": "tickets", "iat": int(now), "exp": int(now) + self.life}
        return ReadToken(claims, "at+jwt")

    async def read_grant(self, token: str, now: float) -> ReadToken:
        raise AssertionError("nobody asked for a grant")


class Stage:
    """An ExternalSts over one Server, at a time of the test's choosing."""

    def __init__(self, version: str = "p-1", deadline: float = 5.0) -> None:
        self.now = float(NOW)
        self.server = Server()
        self.revoked = False
        self.sts = ExternalSts(
            OURS,
            self.server,
            self.server,
            policy_version=version,
            sign=self._sign,
            clock=lambda: self.now,
            random=lambda count: b"r" * count,
            revoked=lambda caller: self.revoked,
            deadline=deadline,
        )

    async def _sign(self, claims: Mapping[str, Any]) -> bytes:
        return b"grant"

    async def token(self, who: Caller, scope: str | None = None) -> bytes:
        return (await self.sts.obtain(who, None, scope)).token


async def test_a_hit_asks_nobody_and_awaits_nothing() -> None:
    stage, alice = Stage(), caller()
    assert stage.sts.lookup(alice, None) is None
    token = await stage.token(alice)
    found = stage.sts.lookup(alice, None)
    assert found is not None and found.token == token
    again = dataclasses.replace(alice)
    assert again != alice and stage.sts.lookup(again, None) is found
    assert len(stage.server.asked) == 1


CALLERS: dict[str, dict[str, Any]] = {
    "another token": {"inbound": Inbound(IDP, "j1", "sha-256:y")},
    "another chain": {"chain": (Hop(CODER, "coder", "exchange"),)},
    "another evidence": {"chain": (Hop(caller().chain[0].id, "planner", "exchange"),)},
    "another user": {"subject": dataclasses.replace(caller().subject, known_as="a")},
    "another key": {"binding": Binding(jkt="k")},
    "another proof of the agent": {"actor": Inbound(IDP, "j2", "sha-256:z")},
}


@pytest.mark.parametrize("name", CALLERS)
async def test_whoever_differs_in_anything_is_asked_for_anew(name: str) -> None:
    stage, other = Stage(), dataclasses.replace(caller(), **CALLERS[name])
    await stage.token(caller())
    assert stage.sts.lookup(other, None) is None


async def test_another_scope_is_another_credential() -> None:
    stage = Stage()
    assert await stage.token(caller(), "tickets.read") != await stage.token(caller(), None)
    assert len(stage.server.asked) == 2


async def test_many_at_once_cost_one_request_and_one_who_leaves_takes_nothing_along() -> None:
    stage = Stage()
    stage.server.open.clear()
    tasks = [asyncio.create_task(stage.token(caller())) for _ in range(50)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    await asyncio.sleep(0)
    stage.server.open.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert set(results[1:]) == {b"t1"} and len(stage.server.asked) == 1


async def test_a_credential_is_used_to_its_end_less_a_margin() -> None:
    stage = Stage()
    await stage.token(caller())
    stage.now += 120 - MARGIN - 1
    assert stage.sts.lookup(caller(), None) is not None
    stage.now += 1
    assert stage.sts.lookup(caller(), None) is None
    assert await stage.token(caller()) == b"t2"


async def test_it_is_never_used_past_the_callers_own_end() -> None:
    stage = Stage()
    stage.server.life = 200
    brief = dataclasses.replace(caller(), exp=NOW + 200)
    await stage.token(brief)
    stage.now = NOW + 200 - MARGIN
    assert stage.sts.lookup(brief, None) is None


async def test_what_revocation_picks_is_forgotten_and_nothing_else() -> None:
    stage, alice = Stage(), caller()
    bob = dataclasses.replace(alice, inbound=Inbound(IDP, "b", "sha-256:b"))
    await stage.token(alice)
    await stage.token(bob)
    stage.sts.forget(lambda who: who.inbound.jti == "b")
    assert stage.sts.lookup(bob, None) is None
    assert stage.sts.lookup(alice, None) is not None


async def test_whoever_was_revoked_during_the_exchange_leaves_nothing_behind() -> None:
    stage = Stage()
    stage.server.open.clear()
    task = asyncio.create_task(stage.token(caller()))
    await asyncio.sleep(0)
    stage.revoked = True
    stage.server.open.set()
    await task
    assert stage.sts.lookup(caller(), None) is None


async def test_a_failure_is_everybodys_and_is_not_kept() -> None:
    stage = Stage(deadline=0.5)
    stage.server.open.clear()
    results = await asyncio.gather(
        *(stage.token(caller()) for _ in range(3)), return_exceptions=True
    )
    assert all(isinstance(result, UpstreamFailed) for result in results)
    assert len({id(result) for result in results}) == 3 and len(stage.server.asked) == 1
    stage.server.open.set()
    assert await stage.token(caller()) == b"t2"


async def test_no_more_wait_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_sts, "WAITING", 1)
    stage = Stage()
    stage.server.open.clear()
    first = asyncio.create_task(stage.token(caller()))
    await asyncio.sleep(0)
    with pytest.raises(UpstreamFailed, match="too many"):
        await stage.token(dataclasses.replace(caller(), inbound=Inbound(IDP, "x", "sha-256:x2")))
    stage.server.open.set()
    await first


async def test_the_oldest_go_where_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_sts, "KEPT", 2)
    stage = Stage()
    callers = [dataclasses.replace(caller(), inbound=Inbound(IDP, n, n)) for n in "abc"]
    for who in callers:
        await stage.token(who)
    assert [stage.sts.lookup(who, None) is not None for who in callers] == [False, True, True]


async def test_a_token_that_is_not_the_callers_is_shown_to_nobody() -> None:
    stage = Stage()
    shown = ExternalSts(
        RULES, stage.server, stage.server, policy_version="p", sign=stage._sign,
        clock=lambda: stage.now, random=lambda count: b"", deadline=1,
    )  # fmt: skip
    for token in (None, b"", b"another"):
        with pytest.raises(UpstreamFailed, match="not at hand"):
            await shown.obtain(caller(), token, None)
    assert not stage.server.asked
