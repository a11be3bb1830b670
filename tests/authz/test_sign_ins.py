"""Sign-ins asked about again: when, by whom, and what is kept of it, over a real vault."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine

from agentgw.authz.sign_ins import RETRY_SECONDS, SignIns
from agentgw.core.login_grants import SignInEnded
from agentgw.core.principal import Issued, Subject
from agentgw.core.recheck import Bounds, Known, Renewed, SignInOver, sign_in_key
from agentgw.core.recorder import Recorder
from agentgw.core.sign_in import Flow, Person, Proven
from agentgw.errors import InvalidToken, OAuthError, UpstreamFailed
from agentgw.registry.ledger import Ledger
from agentgw.registry.revocations import Revocations
from agentgw.registry.schema import open_database
from agentgw.registry.vault import SESSION_SECONDS, Vault, VaultRows
from tests.core.test_login_grants import LOGIN
from tests.core.test_sign_in import IDP, NOW

pytestmark = pytest.mark.anyio
ALICE = Person(Subject("acme", "alice", "acme|alice"), frozenset({"acme:group:support"}))
MOVED = replace(ALICE, groups=frozenset({"acme:group:billing"}))
FLOW = Flow(IDP, "s" * 43, "n" * 22, "v" * 43, "/account", NOW + 500)
MINE: Issued = replace(LOGIN, parent=sign_in_key("sid-1"), iat=NOW, groups=ALICE.groups)
BOUNDS = Bounds(recheck=3600, limit=8 * 3600, max_age=86_400, longest=30 * 86_400)


class Provider:
    """The provider, as a relying party meets it: what it would answer, and what it was shown."""

    issuer = IDP
    client_id = "agentgw"

    def __init__(self) -> None:
        self.person = ALICE
        self.problem: Exception | None = None
        self.doubt: Exception | None = None
        self.shown: list[str] = []
        self.answering = asyncio.Event()
        self.answering.set()

    async def renew(self, known: Known) -> Renewed:
        self.shown.append(known.refresh)
        await self.answering.wait()
        if self.problem is not None:
            raise self.problem
        return Renewed(f"rt-{len(self.shown) + 1}", "it", "at")

    async def who(self, renewed: Renewed, known: Known) -> Person:
        if self.doubt is not None:
            raise self.doubt
        return self.person


class World:
    """Sign-ins of as many workers as are asked for, over one database, with a clock to turn."""

    def __init__(self, folder: Path) -> None:
        self.engine: Engine = open_database(folder / "agentgw.db")
        self.now = float(NOW)
        self.provider = Provider()
        self.records: list[dict[str, object]] = []
        self.vault = Vault(self.engine, {"k1": bytes(32)}, os.urandom, lambda: self.now)

    def worker(self, vault: Callable[[], Vault] | None = None) -> SignIns:
        return SignIns(
            vault or (lambda: self.vault),
            lambda: self.provider,
            lambda: BOUNDS,
            recorder=Recorder(self.append, lambda: self.now, os.urandom),
            clock=lambda: self.now,
        )

    async def append(self, record: dict[str, object]) -> None:
        self.records.append(record)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def signed_in(world: World) -> SignIns:
    mine = world.worker()
    await mine.keep(Proven(ALICE, "rt-1"), "sid-1", FLOW, "agentgw")
    return mine


async def test_what_was_said_lately_counts_without_asking(world: World) -> None:
    mine = await signed_in(world)
    world.now += BOUNDS.recheck - 1
    assert (await mine.today(MINE)).groups == ALICE.groups
    assert world.provider.shown == []


async def test_later_the_provider_is_asked_and_its_newest_token_goes_on(world: World) -> None:
    mine = await signed_in(world)
    world.provider.person = MOVED
    for expected in (["rt-1"], ["rt-1", "rt-2"]):
        world.now += BOUNDS.recheck
        assert (await mine.today(MINE)).groups == MOVED.groups
        assert world.provider.shown == expected
    assert len(world.records) == 1, "what did not change is no news"


async def test_every_login_of_the_sign_in_follows_it(world: World) -> None:
    mine = await signed_in(world)
    world.provider.person = MOVED
    world.now += BOUNDS.recheck
    await mine.today(MINE)
    other = replace(MINE, jti="login-2")
    assert (await world.worker().today(other)).groups == MOVED.groups
    assert world.provider.shown == ["rt-1"]


async def test_of_many_workers_who_ask_at_once_one_does(world: World) -> None:
    await signed_in(world)
    world.now += BOUNDS.recheck
    workers = [world.worker() for _ in range(4)]
    world.provider.answering.clear()
    asking = [asyncio.create_task(each.today(MINE)) for each in workers for _ in range(3)]
    while not world.provider.shown:
        await asyncio.sleep(0)
    world.provider.answering.set()
    assert {login.groups for login in await asyncio.gather(*asking)} == {ALICE.groups}
    assert world.provider.shown == ["rt-1"]


async def test_a_client_that_goes_away_takes_no_token_along(world: World) -> None:
    mine = await signed_in(world)
    world.now += BOUNDS.recheck
    world.provider.answering.clear()
    asking = asyncio.create_task(mine.today(MINE))
    while not world.provider.shown:
        await asyncio.sleep(0)
    asking.cancel()
    world.provider.answering.set()
    await mine.close()
    world.now += BOUNDS.recheck
    await mine.today(MINE)
    assert world.provider.shown == ["rt-1", "rt-2"]


async def test_a_sign_in_that_is_over_ends_every_login_on_it(world: World) -> None:
    mine = await signed_in(world)
    world.now += BOUNDS.recheck
    world.provider.problem = SignInOver("no more")
    for _ in range(2):
        with pytest.raises(SignInEnded) as ended:
            await mine.today(MINE)
        assert (ended.value.login, ended.value.ends) == (MINE.jti, MINE.parent)


async def test_while_it_is_gone_its_last_word_counts_until_the_limit(world: World) -> None:
    mine = await signed_in(world)
    world.provider.problem = UpstreamFailed("it does not answer")
    world.now += BOUNDS.limit - 1
    assert (await mine.today(MINE)).groups == ALICE.groups
    world.now += 1
    with pytest.raises(OAuthError, match="try later") as refused:
        await mine.today(MINE)
    assert (refused.value.error, refused.value.status) == ("temporarily_unavailable", 503)
    assert world.provider.shown == ["rt-1"], "nor is it asked again within the same moment"
    world.provider.problem = None
    world.now += RETRY_SECONDS
    assert (await mine.today(MINE)).groups == ALICE.groups


async def test_an_answer_that_proves_nothing_refuses_but_loses_no_token(world: World) -> None:
    mine = await signed_in(world)
    world.now += BOUNDS.recheck
    world.provider.doubt = InvalidToken("the ID token is of another issuer")
    with pytest.raises(OAuthError, match="does not prove"):
        await mine.today(MINE)
    world.provider.doubt = None
    await mine.today(MINE)
    assert world.provider.shown == ["rt-1", "rt-2"]


async def test_without_a_refresh_token_a_login_has_its_age_only(world: World) -> None:
    mine = world.worker()
    await mine.keep(Proven(ALICE, None), "sid-1", FLOW, "agentgw")
    for login in (MINE, replace(MINE, parent=None)):
        world.now = float(NOW + BOUNDS.max_age - 1)
        assert await mine.today(login) == login
        world.now += 1
        with pytest.raises(OAuthError, match="max_age"):
            await mine.today(login)


async def test_a_sign_in_of_another_user_client_or_provider_is_none_of_it(world: World) -> None:
    mine = await signed_in(world)
    world.now += BOUNDS.recheck
    bob = replace(MINE, subject=Subject("acme", "bob", "acme|bob"))
    assert await mine.today(bob) == bob
    world.provider.client_id = "other"
    assert await mine.today(MINE) == MINE
    world.provider.client_id, world.provider.issuer = "agentgw", "https://other.example"
    assert await mine.today(MINE) == MINE
    assert world.provider.shown == []


async def test_a_sign_in_that_does_not_open_cannot_be_asked_about(world: World) -> None:
    await signed_in(world)
    sealed_otherwise = Vault(world.engine, {"k2": bytes(32)}, os.urandom, lambda: world.now)
    mine = world.worker(lambda: sealed_otherwise)
    world.now += BOUNDS.max_age
    with pytest.raises(OAuthError, match="max_age"):
        await mine.today(MINE)


async def test_sign_ins_that_no_login_stands_on_are_forgotten(world: World) -> None:
    mine = await signed_in(world)
    await mine.keep(Proven(ALICE, "rt-9"), "sid-2", FLOW, "agentgw")
    await mine.keep(Proven(ALICE, "rt-8"), "sid-3", FLOW, "agentgw")
    stopped = replace(MINE, jti="login-3", parent=sign_in_key("sid-3"))
    for login in (MINE, stopped):
        Ledger(world.engine).record(login)
    Revocations(world.engine).revoke_token(stopped.jti, stopped.exp)
    rows = VaultRows(world.engine)
    assert rows.purge(NOW + SESSION_SECONDS) == 0, "a login may still begin"
    assert rows.purge(NOW + SESSION_SECONDS + 1) == 2
    world.now += BOUNDS.recheck
    assert (await mine.today(MINE)).groups == ALICE.groups
    assert world.provider.shown == ["rt-1"]
